// The shapes that TokenCompact takes: one check for what is known while a network is built (symbolic dimensions count
// as unknown) and for what arrives at run time.
#pragma once

#include <NvInferRuntime.h>
#include <cstdint>
#include <string>

namespace skimrt
{

constexpr int32_t kInputs = 4;
constexpr int32_t kOutputs = 4;
constexpr int64_t kUnknown = -1;

// The dimensions of a tensor; kUnknown where they are not constants.
nvinfer1::Dims64 knownDims(nvinfer1::DimsExprs const& dims);

// inputs: hidden [B, S, D], score [B, S], alive [B, S], position [B, S]. Returns what is wrong, empty when nothing is.
std::string checkInputShapes(nvinfer1::Dims64 const (&inputs)[kInputs], int32_t capacity);

// outputs: packed [B, C, D], alive [B, C], position [B, C], count [B], for inputs that have passed the check above.
std::string checkOutputShapes(
    nvinfer1::Dims64 const (&inputs)[kInputs], nvinfer1::Dims64 const (&outputs)[kOutputs], int32_t capacity);

}  // namespace skimrt
