// Plugin fields to attributes and back.
#include "token_compact/attributes.h"

#include "token_compact/operator.h"

#include <cmath>
#include <cstdio>
#include <cstring>

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

namespace skimrt
{
namespace
{

char const* typeName(PluginFieldType type)
{
    switch (type)
    {
    case PluginFieldType::kFLOAT32: return "float32";
    case PluginFieldType::kINT32: return "int32";
    case PluginFieldType::kFLOAT16: return "float16 (or an ONNX type that the parser does not know)";
    default: return "another type";
    }
}

// Copies the one value of `field` to `value`. The data need not be aligned: an engine's fields lie in its byte stream.
std::string readScalar(PluginField const& field, PluginFieldType type, void* value)
{
    if (field.type != type)
    {
        return std::string(field.name) + " must be " + typeName(type) + ", found " + typeName(field.type);
    }
    if (field.length != 1 || field.data == nullptr)
    {
        return std::string(field.name) + " must hold 1 value, found " + std::to_string(field.data ? field.length : 0);
    }
    std::memcpy(value, field.data, sizeof(int32_t));
    return {};
}

std::string checkRanges(TokenCompactAttributes const& attributes)
{
    std::string errors;
    if (std::isnan(attributes.threshold))
    {
        errors += "threshold must be a number, found NaN; ";
    }
    if (attributes.capacity < 0 || attributes.capacity > kMaxLength)
    {
        errors += "capacity must be 0 (all rows) to " + std::to_string(kMaxLength) + ", found "
            + std::to_string(attributes.capacity) + "; ";
    }
    if (attributes.protectFirst != 0 && attributes.protectFirst != 1)
    {
        errors += "protect_first must be 0 or 1, found " + std::to_string(attributes.protectFirst) + "; ";
    }
    return errors;
}

}  // namespace

std::array<PluginField, 3> tokenCompactFields(TokenCompactAttributes const& attributes) noexcept
{
    return {PluginField("threshold", &attributes.threshold, PluginFieldType::kFLOAT32, 1),
        PluginField("capacity", &attributes.capacity, PluginFieldType::kINT32, 1),
        PluginField("protect_first", &attributes.protectFirst, PluginFieldType::kINT32, 1)};
}

std::array<PluginField, 3> tokenCompactFieldNames() noexcept
{
    std::array<PluginField, 3> fields = tokenCompactFields({});
    for (PluginField& field : fields)
    {
        field.data = nullptr;
    }
    return fields;
}

std::string parseTokenCompact(
    nvinfer1::PluginFieldCollection const* fields, nvinfer1::TensorRTPhase phase, TokenCompactAttributes& attributes)
{
    if (fields == nullptr || fields->nbFields < 0 || (fields->nbFields > 0 && fields->fields == nullptr))
    {
        return "no field collection was given";
    }
    std::array<PluginField, 3> const known = tokenCompactFields(attributes);
    std::array<int, 3> given{};
    std::string errors;
    for (int32_t i = 0; i < fields->nbFields; ++i)
    {
        PluginField const& field = fields->fields[i];
        size_t index = 0;
        while (field.name != nullptr && index < known.size() && std::strcmp(field.name, known[index].name) != 0)
        {
            ++index;
        }
        if (field.name == nullptr || index == known.size())
        {
            errors += std::string("unknown field ") + (field.name != nullptr ? field.name : "without a name") + "; ";
            continue;
        }
        if (++given[index] > 1)
        {
            errors += std::string(field.name) + " is given twice; ";
            continue;
        }
        std::string const error = readScalar(field, known[index].type, const_cast<void*>(known[index].data));
        errors += error.empty() ? "" : error + "; ";
    }
    bool const needsAll = phase == nvinfer1::TensorRTPhase::kRUNTIME;
    for (size_t index = 0; index < known.size(); ++index)
    {
        if (given[index] == 0 && (index == 0 || needsAll))
        {
            errors += std::string(known[index].name) + " is missing; ";
        }
    }
    errors += checkRanges(attributes);
    return errors.substr(0, errors.empty() ? 0 : errors.size() - 2);
}

std::string describe(TokenCompactAttributes const& attributes)
{
    char text[96];
    std::snprintf(text, sizeof(text), "threshold=%.9g,capacity=%d,protect_first=%d",
        static_cast<double>(attributes.threshold), attributes.capacity, attributes.protectFirst);
    return text;
}

}  // namespace skimrt
