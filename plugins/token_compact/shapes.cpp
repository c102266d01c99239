// Shape checks of TokenCompact.
#include "token_compact/shapes.h"

#include "token_compact/operator.h"

#include <initializer_list>

using nvinfer1::Dims64;

namespace skimrt
{
namespace
{

std::string toString(Dims64 const& dims)
{
    std::string text = "[";
    for (int32_t i = 0; i < dims.nbDims && i < Dims64::MAX_DIMS; ++i)
    {
        text += (i > 0 ? ", " : "") + (dims.d[i] == kUnknown ? std::string("?") : std::to_string(dims.d[i]));
    }
    return text + "]";
}

// Whether `dims` is `expected` where both are known.
bool agrees(Dims64 const& dims, std::initializer_list<int64_t> expected)
{
    if (dims.nbDims != static_cast<int32_t>(expected.size()))
    {
        return false;
    }
    int64_t const* found = dims.d;
    for (int64_t const want : expected)
    {
        if (want != kUnknown && *found != kUnknown && want != *found)
        {
            return false;
        }
        ++found;
    }
    return true;
}

}  // namespace

Dims64 knownDims(nvinfer1::DimsExprs const& dims)
{
    Dims64 known{};
    known.nbDims = dims.nbDims;
    for (int32_t i = 0; i < dims.nbDims && i < Dims64::MAX_DIMS; ++i)
    {
        bool const isKnown = dims.d[i] != nullptr && dims.d[i]->isConstant();
        known.d[i] = isKnown ? dims.d[i]->getConstantValue() : kUnknown;
    }
    return known;
}

std::string checkInputShapes(Dims64 const (&inputs)[kInputs], int32_t capacity)
{
    Dims64 const& hidden = inputs[0];
    if (hidden.nbDims != 3)
    {
        return "hidden must be [batch, length, width], found " + toString(hidden);
    }
    int64_t const length = hidden.d[1];
    if (length != kUnknown && (length < 1 || length > kMaxLength))
    {
        return "length must be 1 to " + std::to_string(kMaxLength) + ", found hidden " + toString(hidden);
    }
    if (length != kUnknown && capacity > length)
    {
        return "capacity " + std::to_string(capacity) + " exceeds the length of hidden " + toString(hidden);
    }
    char const* const names[kInputs] = {"hidden", "score", "alive", "position"};
    for (int32_t i = 1; i < kInputs; ++i)
    {
        if (!agrees(inputs[i], {hidden.d[0], length}))
        {
            return std::string(names[i]) + " must be [batch, length] of hidden " + toString(hidden) + ", found "
                + toString(inputs[i]);
        }
    }
    return {};
}

std::string checkOutputShapes(Dims64 const (&inputs)[kInputs], Dims64 const (&outputs)[kOutputs], int32_t capacity)
{
    int64_t const batch = inputs[0].d[0];
    int64_t const rows = capacity == 0 ? inputs[0].d[1] : capacity;
    bool const agree = agrees(outputs[0], {batch, rows, inputs[0].d[2]}) && agrees(outputs[1], {batch, rows})
        && agrees(outputs[2], {batch, rows}) && agrees(outputs[3], {batch});
    return agree ? "" : "outputs do not have the shapes that hidden " + toString(inputs[0]) + " leads to";
}

}  // namespace skimrt
