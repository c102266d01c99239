// The attributes of a TokenCompact node and the plugin fields that carry them.
#pragma once

#include <NvInferRuntime.h>
#include <array>
#include <string>

namespace skimrt
{

struct TokenCompactAttributes
{
    float threshold{};        // any number; infinities keep nothing or every row that has a score
    int32_t capacity{};       // rows that go out, 1 to kMaxLength; 0 stands for all that come in
    int32_t protectFirst{1};  // 0 or 1
};

// Names and types of the fields, for the creator to advertise: the ONNX parser passes on these and no others.
std::array<nvinfer1::PluginField, 3> tokenCompactFieldNames() noexcept;

// The fields that parseTokenCompact() turns back into `attributes`; they point into it.
std::array<nvinfer1::PluginField, 3> tokenCompactFields(TokenCompactAttributes const& attributes) noexcept;

// Reads `fields` into `attributes`. At build time `threshold` must be given and the others have defaults; an engine
// (kRUNTIME) holds all three. Returns what is wrong with the fields, all of it; empty when nothing is.
std::string parseTokenCompact(
    nvinfer1::PluginFieldCollection const* fields, nvinfer1::TensorRTPhase phase, TokenCompactAttributes& attributes);

// "threshold=0.25,capacity=64,protect_first=1": exact (nine digits tell two floats apart), so also a cache key.
std::string describe(TokenCompactAttributes const& attributes);

}  // namespace skimrt
