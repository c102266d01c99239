// Arbitrary fields, types and shapes through the plugin. libFuzzer's entry point; fuzz_driver.cpp calls it where there
// is no libFuzzer. Besides what the sanitizers find: whatever is refused has a reason in the log, and whatever is
// accepted can be stored and read back, and leads to shapes.
#include "testing/fake_tensorrt.h"
#include "testing/fuzz_target.h"

#include <cstdlib>
#include <cstring>
#include <memory>

long skimrt::testing::acceptedInputs = 0;

using namespace nvinfer1;
using namespace skimrt::testing;

namespace
{

// Takes values from the input's front; zeros when it is used up.
class Input
{
public:
    Input(uint8_t const* data, size_t size)
        : mData(data)
        , mSize(size)
    {
    }
    template <typename T>
    T take()
    {
        T value{};
        size_t const taken = std::min(sizeof(T), mSize);
        if (taken > 0)
        {
            std::memcpy(&value, mData, taken);
            mData += taken;
            mSize -= taken;
        }
        return value;
    }

private:
    uint8_t const* mData;
    size_t mSize;
};

void require(bool holds)
{
    if (!holds)
    {
        std::abort();
    }
}

// The value of a field: four bytes at the end of an allocation, whatever the field says of its length.
struct FieldValue
{
    std::string name;
    std::unique_ptr<std::byte[]> data;
};

// A field that is right but for its value, which mostly is, too.
PluginField takeGoodField(Input& input, std::deque<FieldValue>& values, char const* name, PluginFieldType type)
{
    FieldValue& value = values.emplace_back(FieldValue{name, std::make_unique<std::byte[]>(4)});
    auto const kind = input.take<uint8_t>();
    int32_t const number = type == PluginFieldType::kFLOAT32 || kind < 8 ? input.take<int32_t>() : kind % 2;
    std::memcpy(value.data.get(), &number, 4);
    return {value.name.c_str(), value.data.get(), type, 1};
}

// A field of which anything may be wrong.
PluginField takeField(Input& input, std::deque<FieldValue>& values)
{
    constexpr char const* kNames[] = {"threshold", "capacity", "protect_first", "", "plugin_version", "Threshold"};
    auto const kind = input.take<uint8_t>();
    constexpr int32_t kInts[] = {0, 1, 2, -1, 64, 4096, 4097, INT32_MAX};
    FieldValue& value = values.emplace_back(FieldValue{kNames[kind % 6], std::make_unique<std::byte[]>(4)});
    int32_t const number = kind < 128 ? kInts[input.take<uint8_t>() % 8] : input.take<int32_t>();
    std::memcpy(value.data.get(), &number, 4);
    auto const shape = input.take<uint8_t>();
    auto type = kind % 6 == 0 ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32;
    type = shape % 8 == 0 ? static_cast<PluginFieldType>(input.take<uint8_t>() % 16) : type;
    int32_t const length = shape % 8 == 1 ? input.take<int32_t>() : 1;
    bool const hasName = shape % 16 != 3;
    bool const hasData = shape % 16 != 5;
    return {hasName ? value.name.c_str() : nullptr, hasData ? value.data.get() : nullptr, type, length};
}

Dims64 takeDims(Input& input, int32_t nbDims)
{
    constexpr int64_t kSizes[] = {-1, 0, 1, 2, 128, 4096, 4097, INT64_MAX};
    Dims64 result{};
    auto const kind = input.take<uint8_t>();
    result.nbDims = kind % 16 == 0 ? input.take<uint8_t>() % 9 : nbDims;
    for (int32_t i = 0; i < result.nbDims; ++i)
    {
        result.d[i] = kind % 16 == 1 ? input.take<int64_t>() : kSizes[input.take<uint8_t>() % 8];
    }
    return result;
}

void useAccepted(IPluginV3& plugin, Input& input)
{
    auto& build = *static_cast<IPluginV3OneBuild*>(plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
    auto& runtime = *static_cast<IPluginV3OneRuntime*>(plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));

    int32_t count = 0;
    auto& creator = *static_cast<IPluginCreatorV3One*>(getCreators(count)[0]);
    std::unique_ptr<IPluginV3> const restored(
        creator.createPlugin("restored", runtime.getFieldsToSerialize(), TensorRTPhase::kRUNTIME));
    require(restored != nullptr);
    auto& restoredBuild
        = *static_cast<IPluginV3OneBuild*>(restored->getCapabilityInterface(PluginCapabilityType::kBUILD));
    require(std::strcmp(restoredBuild.getMetadataString(), build.getMetadataString()) == 0);

    FakeExprBuilder builder;
    DynamicPluginTensorDesc described[8]{};
    PluginTensorDesc atRuntime[8]{};
    DimsExprs inputs[4]{};
    DimsExprs outputs[4]{};
    for (int32_t i = 0; i < 8; ++i)
    {
        Dims64 const shape = takeDims(input, i % 4 == 0 ? 3 : 2);
        atRuntime[i] = tensor(shape, static_cast<DataType>(input.take<uint8_t>() % 12));
        atRuntime[i].format = static_cast<TensorFormat>(input.take<uint8_t>() % 4 == 0 ? 3 : 0);
        described[i] = range(atRuntime[i], shape, takeDims(input, shape.nbDims));
        if (i < 4)
        {
            inputs[i] = builder.expressions(shape);
        }
    }
    if (build.getOutputShapes(inputs, 4, nullptr, 0, outputs, 4, builder) == 0)
    {
        for (DimsExprs const& output : outputs)
        {
            require(output.nbDims >= 1 && output.nbDims <= 3 && output.d[0] != nullptr);
        }
    }
    for (int32_t pos = 0; pos < 8; ++pos)
    {
        build.supportsFormatCombination(pos, described, 4, 4);
    }
    build.configurePlugin(described, 4, described + 4, 4);
    runtime.onShapeChange(atRuntime, 4, atRuntime + 4, 4);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(uint8_t const* data, size_t size)
{
    static RememberingLogger logger;
    setLoggerFinder(&logger);
    Input input(data, size);
    std::deque<FieldValue> values;
    std::vector<PluginField> fields;
    auto const recipe = input.take<uint8_t>();
    if (recipe % 2 == 0)
    {
        fields.push_back(takeGoodField(input, values, "threshold", PluginFieldType::kFLOAT32));
        fields.push_back(takeGoodField(input, values, "capacity", PluginFieldType::kINT32));
        fields.push_back(takeGoodField(input, values, "protect_first", PluginFieldType::kINT32));
    }
    for (int32_t i = recipe % 4 == 0 ? 0 : recipe / 4 % 4; i > 0; --i)
    {
        fields.push_back(takeField(input, values));
    }
    PluginFieldCollection const collection{static_cast<int32_t>(fields.size()), fields.data()};
    auto const phase = input.take<uint8_t>() % 4 == 0 ? TensorRTPhase::kRUNTIME : TensorRTPhase::kBUILD;
    int32_t count = 0;
    auto& creator = *static_cast<IPluginCreatorV3One*>(getCreators(count)[0]);
    logger.last.clear();
    std::unique_ptr<IPluginV3> const plugin(creator.createPlugin("node", &collection, phase));
    require((plugin == nullptr) == !logger.last.empty());
    if (plugin != nullptr)
    {
        ++skimrt::testing::acceptedInputs;
        useAccepted(*plugin, input);
    }
    return 0;
}
