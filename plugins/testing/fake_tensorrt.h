// The parts of TensorRT that call into a plugin, faked: dimension expressions and a logger that remembers.
#pragma once

#include <NvInferRuntime.h>
#include <deque>
#include <initializer_list>
#include <string>
#include <vector>

extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);
extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& nbCreators);

namespace skimrt::testing
{

// A dimension that is a constant, or symbolic when the value is negative.
class FakeDimension final : public nvinfer1::IDimensionExpr, nvinfer1::apiv::VDimensionExpr
{
public:
    explicit FakeDimension(int64_t value)
        : mValue(value)
    {
        mImpl = this;
    }
    bool isConstant() const override
    {
        return mValue >= 0;
    }
    int64_t getConstantValue() const override
    {
        return mValue;
    }
    bool isSizeTensor() const override
    {
        return false;
    }

private:
    int64_t mValue;
};

class FakeExprBuilder final : public nvinfer1::IExprBuilder, nvinfer1::apiv::VExprBuilder
{
public:
    FakeExprBuilder()
    {
        mImpl = this;
    }
    nvinfer1::IDimensionExpr const* constant(int64_t value) override
    {
        return &mDimensions.emplace_back(value);
    }
    nvinfer1::IDimensionExpr const* operation(
        nvinfer1::DimensionOperation, nvinfer1::IDimensionExpr const&, nvinfer1::IDimensionExpr const&) override
    {
        return nullptr;
    }
    nvinfer1::IDimensionExpr const* declareSizeTensor(
        int32_t, nvinfer1::IDimensionExpr const&, nvinfer1::IDimensionExpr const&) override
    {
        return nullptr;
    }
    nvinfer1::DimsExprs expressions(nvinfer1::Dims64 const& dims)
    {
        nvinfer1::DimsExprs result{};
        result.nbDims = dims.nbDims;
        for (int32_t i = 0; i < dims.nbDims; ++i)
        {
            result.d[i] = constant(dims.d[i]);
        }
        return result;
    }

private:
    std::deque<FakeDimension> mDimensions;  // addresses stay
};

class RememberingLogger final : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder
{
public:
    void log(Severity, nvinfer1::AsciiChar const* message) noexcept override
    {
        last = message;
    }
    nvinfer1::ILogger* findLogger() override
    {
        return this;
    }
    std::string last;
};

inline nvinfer1::Dims64 dims(std::initializer_list<int64_t> sizes)
{
    nvinfer1::Dims64 result{};
    for (int64_t const size : sizes)
    {
        result.d[result.nbDims++] = size;
    }
    return result;
}

inline nvinfer1::PluginTensorDesc tensor(nvinfer1::Dims64 const& shape, nvinfer1::DataType type)
{
    nvinfer1::PluginTensorDesc result{};
    result.dims = shape;
    result.type = type;
    result.format = nvinfer1::TensorFormat::kLINEAR;
    return result;
}

inline nvinfer1::DynamicPluginTensorDesc range(
    nvinfer1::PluginTensorDesc const& desc, nvinfer1::Dims64 const& smallest, nvinfer1::Dims64 const& largest)
{
    return {desc, smallest, largest, smallest};
}

}  // namespace skimrt::testing
