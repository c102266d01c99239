// skimrt::TokenCompact as a TensorRT plugin.
#include "token_compact/plugin.h"

#include "log.h"
#include "token_compact/kernel.h"
#include "token_compact/shapes.h"

#include <exception>

using namespace nvinfer1;

namespace skimrt
{
namespace
{

constexpr char const* kName = "TokenCompact";
constexpr char const* kVersion = "1";
constexpr char const* kNamespace = "skimrt";

constexpr int32_t kSuccess = 0;
constexpr int32_t kFailure = -1;

int32_t report(std::string const& error)
{
    if (error.empty())
    {
        return kSuccess;
    }
    logError(std::string(kNamespace) + "::" + kName + ": " + error);
    return kFailure;
}

std::string checkNumbers(int32_t nbInputs, int32_t nbOutputs)
{
    if (nbInputs == kInputs && nbOutputs == kOutputs)
    {
        return {};
    }
    return "expected 4 inputs and 4 outputs, found " + std::to_string(nbInputs) + " and " + std::to_string(nbOutputs);
}

int64_t elementBytes(DataType type)
{
    return type == DataType::kFLOAT ? 4 : 2;
}

bool isRowType(DataType type)
{
    return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

}  // namespace

TokenCompactPlugin::TokenCompactPlugin(TokenCompactAttributes const& attributes)
    : mAttributes(attributes)
    , mDescription(describe(attributes))
{
}

// ---- IPluginV3

IPluginCapability* TokenCompactPlugin::getCapabilityInterface(PluginCapabilityType type) noexcept
{
    switch (type)
    {
    case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

IPluginV3* TokenCompactPlugin::clone() noexcept
{
    try
    {
        return new TokenCompactPlugin(mAttributes);
    }
    catch (std::exception const& error)
    {
        report(error.what());
        return nullptr;
    }
}

// ---- IPluginV3OneCore

AsciiChar const* TokenCompactPlugin::getPluginName() const noexcept
{
    return kName;
}

AsciiChar const* TokenCompactPlugin::getPluginVersion() const noexcept
{
    return kVersion;
}

AsciiChar const* TokenCompactPlugin::getPluginNamespace() const noexcept
{
    return kNamespace;
}

// ---- IPluginV3OneBuild

int32_t TokenCompactPlugin::getNbOutputs() const noexcept
{
    return kOutputs;
}

int32_t TokenCompactPlugin::getOutputDataTypes(
    DataType* outputTypes, int32_t nbOutputs, DataType const* inputTypes, int32_t nbInputs) const noexcept
{
    if (report(checkNumbers(nbInputs, nbOutputs)) != kSuccess)
    {
        return kFailure;
    }
    outputTypes[0] = inputTypes[0];
    outputTypes[1] = DataType::kINT32;
    outputTypes[2] = DataType::kINT32;
    outputTypes[3] = DataType::kINT32;
    return kSuccess;
}

int32_t TokenCompactPlugin::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const*, int32_t,
    DimsExprs* outputs, int32_t nbOutputs, IExprBuilder& exprBuilder) noexcept
{
    if (report(checkNumbers(nbInputs, nbOutputs)) != kSuccess)
    {
        return kFailure;
    }
    Dims64 const known[kInputs]
        = {knownDims(inputs[0]), knownDims(inputs[1]), knownDims(inputs[2]), knownDims(inputs[3])};
    if (report(checkInputShapes(known, mAttributes.capacity)) != kSuccess)
    {
        return kFailure;
    }
    IDimensionExpr const* const batch = inputs[0].d[0];
    IDimensionExpr const* const rows
        = mAttributes.capacity == 0 ? inputs[0].d[1] : exprBuilder.constant(mAttributes.capacity);
    outputs[0].nbDims = 3;
    outputs[0].d[0] = batch;
    outputs[0].d[1] = rows;
    outputs[0].d[2] = inputs[0].d[2];
    for (int32_t i = 1; i <= 2; ++i)
    {
        outputs[i].nbDims = 2;
        outputs[i].d[0] = batch;
        outputs[i].d[1] = rows;
    }
    outputs[3].nbDims = 1;
    outputs[3].d[0] = batch;
    return kSuccess;
}

bool TokenCompactPlugin::supportsFormatCombination(
    int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t nbInputs, int32_t nbOutputs) noexcept
{
    if (!checkNumbers(nbInputs, nbOutputs).empty() || pos < 0 || pos >= nbInputs + nbOutputs)
    {
        return false;
    }
    PluginTensorDesc const& tensor = inOut[pos].desc;
    if (tensor.format != TensorFormat::kLINEAR)
    {
        return false;
    }
    switch (pos)
    {
    case 0: return isRowType(tensor.type);
    case 1: return tensor.type == DataType::kFLOAT;
    case kInputs: return tensor.type == inOut[0].desc.type;
    default: return tensor.type == DataType::kINT32;
    }
}

int32_t TokenCompactPlugin::configurePlugin(
    DynamicPluginTensorDesc const* in, int32_t nbInputs, DynamicPluginTensorDesc const*, int32_t nbOutputs) noexcept
{
    if (report(checkNumbers(nbInputs, nbOutputs)) != kSuccess)
    {
        return kFailure;
    }
    // The smallest length must still hold the capacity, the largest must fit into the kernel.
    std::string const smallest = checkInputShapes({in[0].min, in[1].min, in[2].min, in[3].min}, mAttributes.capacity);
    std::string const largest = checkInputShapes({in[0].max, in[1].max, in[2].max, in[3].max}, mAttributes.capacity);
    return report(smallest.empty() ? largest : smallest);
}

char const* TokenCompactPlugin::getTimingCacheID() noexcept
{
    return mDescription.c_str();
}

char const* TokenCompactPlugin::getMetadataString() noexcept
{
    return mDescription.c_str();
}

// ---- IPluginV3OneRuntime

int32_t TokenCompactPlugin::onShapeChange(
    PluginTensorDesc const* in, int32_t nbInputs, PluginTensorDesc const* out, int32_t nbOutputs) noexcept
{
    if (report(checkNumbers(nbInputs, nbOutputs)) != kSuccess)
    {
        return kFailure;
    }
    Dims64 const inputs[kInputs] = {in[0].dims, in[1].dims, in[2].dims, in[3].dims};
    Dims64 const outputs[kOutputs] = {out[0].dims, out[1].dims, out[2].dims, out[3].dims};
    std::string const error = checkInputShapes(inputs, mAttributes.capacity);
    return report(error.empty() ? checkOutputShapes(inputs, outputs, mAttributes.capacity) : error);
}

int32_t TokenCompactPlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const*,
    void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept
{
    Dims64 const& hidden = inputDesc[0].dims;
    TokenCompactProblem problem{};
    problem.batch = static_cast<int32_t>(hidden.d[0]);
    problem.length = static_cast<int32_t>(hidden.d[1]);
    problem.capacity = mAttributes.capacity == 0 ? problem.length : mAttributes.capacity;
    problem.rowBytes = hidden.d[2] * elementBytes(inputDesc[0].type);
    problem.threshold = mAttributes.threshold;
    problem.protectFirst = mAttributes.protectFirst != 0;
    problem.hidden = inputs[0];
    problem.score = static_cast<float const*>(inputs[1]);
    problem.alive = static_cast<int32_t const*>(inputs[2]);
    problem.position = static_cast<int32_t const*>(inputs[3]);
    problem.packed = outputs[0];
    problem.packedAlive = static_cast<int32_t*>(outputs[1]);
    problem.packedPosition = static_cast<int32_t*>(outputs[2]);
    problem.count = static_cast<int32_t*>(outputs[3]);
    cudaError_t const status = tokenCompact(problem, stream);
    return status == cudaSuccess ? kSuccess : report(std::string("launch failed: ") + cudaGetErrorString(status));
}

IPluginV3* TokenCompactPlugin::attachToContext(IPluginResourceContext*) noexcept
{
    return clone();
}

PluginFieldCollection const* TokenCompactPlugin::getFieldsToSerialize() noexcept
{
    mFields = tokenCompactFields(mAttributes);
    mFieldCollection = {static_cast<int32_t>(mFields.size()), mFields.data()};
    return &mFieldCollection;
}

// ---- Creator

TokenCompactCreator::TokenCompactCreator()
    : mFields(tokenCompactFieldNames())
    , mFieldCollection{static_cast<int32_t>(mFields.size()), mFields.data()}
{
}

IPluginV3* TokenCompactCreator::createPlugin(
    AsciiChar const*, PluginFieldCollection const* fields, TensorRTPhase phase) noexcept
{
    try
    {
        TokenCompactAttributes attributes;
        if (report(parseTokenCompact(fields, phase, attributes)) != kSuccess)
        {
            return nullptr;
        }
        return new TokenCompactPlugin(attributes);
    }
    catch (std::exception const& error)
    {
        report(error.what());
        return nullptr;
    }
}

PluginFieldCollection const* TokenCompactCreator::getFieldNames() noexcept
{
    return &mFieldCollection;
}

AsciiChar const* TokenCompactCreator::getPluginName() const noexcept
{
    return kName;
}

AsciiChar const* TokenCompactCreator::getPluginVersion() const noexcept
{
    return kVersion;
}

AsciiChar const* TokenCompactCreator::getPluginNamespace() const noexcept
{
    return kNamespace;
}

}  // namespace skimrt
