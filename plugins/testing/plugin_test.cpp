// The plugin as TensorRT uses it: from fields to a plugin, types, shapes, formats, the way into an engine and back, and
// enqueue on the golden cases (the kernel runs on the host).
// Usage: plugin_test CASES.txt
#include "testing/check.h"
#include "testing/fake_tensorrt.h"
#include "testing/token_compact_call.h"

#include <cmath>
#include <memory>

using namespace nvinfer1;
using namespace skimrt::testing;

namespace
{

RememberingLogger logger;

IPluginCreatorV3One& creator()
{
    int32_t count = 0;
    IPluginCreatorInterface* const* creators = getCreators(count);
    CHECK(count == 1);
    return *static_cast<IPluginCreatorV3One*>(creators[0]);
}

using Plugin = std::unique_ptr<IPluginV3>;

Plugin create(std::vector<PluginField> const& fields, TensorRTPhase phase = TensorRTPhase::kBUILD)
{
    PluginFieldCollection const collection{static_cast<int32_t>(fields.size()), fields.data()};
    return Plugin(creator().createPlugin("node", &collection, phase));
}

Plugin create(float threshold, int32_t capacity, int32_t protectFirst)
{
    return create({PluginField("threshold", &threshold, PluginFieldType::kFLOAT32, 1),
        PluginField("capacity", &capacity, PluginFieldType::kINT32, 1),
        PluginField("protect_first", &protectFirst, PluginFieldType::kINT32, 1)});
}

IPluginV3OneBuild& build(Plugin const& plugin)
{
    return *static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
}

IPluginV3OneRuntime& runtime(Plugin const& plugin)
{
    return *static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

void testIdentity()
{
    context = "identity";
    Plugin const plugin = create(0.5F, 0, 1);
    auto const* core = static_cast<IPluginV3OneCore*>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
    CHECK(core->getPluginName() == std::string("TokenCompact"));
    CHECK(core->getPluginVersion() == std::string("1"));
    CHECK(core->getPluginNamespace() == std::string("skimrt"));
    CHECK(core->getPluginName() == std::string(creator().getPluginName()));
    CHECK(core->getPluginVersion() == std::string(creator().getPluginVersion()));
    CHECK(core->getPluginNamespace() == std::string(creator().getPluginNamespace()));
    CHECK(plugin->getCapabilityInterface(static_cast<PluginCapabilityType>(7)) == nullptr);
    CHECK(creator().getFieldNames()->nbFields == 3);
}

void testBadFields()
{
    float const threshold = 0.5F;
    float const nan = NAN;
    int32_t const zero = 0;
    int32_t const minusOne = -1;
    int32_t const two = 2;
    int32_t const tooLong = 4097;
    double const wide = 0.5;
    PluginField const good("threshold", &threshold, PluginFieldType::kFLOAT32, 1);
    auto const isRefused = [](std::vector<PluginField> const& fields, std::string const& reason,
                               TensorRTPhase phase = TensorRTPhase::kBUILD)
    {
        context = "bad fields: " + reason;
        logger.last.clear();
        return create(fields, phase) == nullptr && logger.last.find(reason) != std::string::npos;
    };
    CHECK(isRefused({}, "threshold is missing"));
    CHECK(isRefused({PluginField("threshold", &nan, PluginFieldType::kFLOAT32, 1)}, "found NaN"));
    CHECK(isRefused({PluginField("threshold", &wide, PluginFieldType::kFLOAT64, 1)}, "must be float32"));
    CHECK(isRefused({PluginField("threshold", &threshold, PluginFieldType::kFLOAT32, 2)}, "1 value, found 2"));
    CHECK(isRefused({PluginField("threshold", &threshold, PluginFieldType::kFLOAT32, -1)}, "1 value, found -1"));
    CHECK(isRefused({PluginField("threshold", nullptr, PluginFieldType::kFLOAT32, 1)}, "1 value, found 0"));
    CHECK(isRefused({good, good}, "given twice"));
    CHECK(isRefused({good, PluginField("capacity", &minusOne, PluginFieldType::kINT32, 1)}, "found -1"));
    CHECK(isRefused({good, PluginField("capacity", &tooLong, PluginFieldType::kINT32, 1)}, "found 4097"));
    CHECK(isRefused({good, PluginField("capacity", &zero, PluginFieldType::kFLOAT16, 1)}, "must be int32"));
    CHECK(isRefused({good, PluginField("protect_first", &two, PluginFieldType::kINT32, 1)}, "found 2"));
    CHECK(isRefused({good, PluginField("treshold", &threshold, PluginFieldType::kFLOAT32, 1)}, "unknown field"));
    CHECK(isRefused({good, PluginField(nullptr, &threshold, PluginFieldType::kFLOAT32, 1)}, "without a name"));
    CHECK(isRefused({good}, "capacity is missing; protect_first is missing", TensorRTPhase::kRUNTIME));

    context = "bad collections";
    PluginFieldCollection const negative{-1, &good};
    PluginFieldCollection const noFields{1, nullptr};
    CHECK(creator().createPlugin("node", nullptr, TensorRTPhase::kBUILD) == nullptr);
    CHECK(creator().createPlugin("node", &negative, TensorRTPhase::kBUILD) == nullptr);
    CHECK(creator().createPlugin("node", &noFields, TensorRTPhase::kBUILD) == nullptr);
    context = "defaults";
    CHECK(create({good}) != nullptr);
}

// What an engine stores makes the same plugin again, also from a clone and from an unaligned place.
void testSerialization()
{
    context = "serialization";
    Plugin const plugin = create(0.1F, 17, 0);
    Plugin const copy(plugin->clone());
    Plugin const attached(runtime(copy).attachToContext(nullptr));
    std::vector<PluginField> fields;
    std::vector<std::vector<std::byte>> storage;
    PluginFieldCollection const* const collection = runtime(attached).getFieldsToSerialize();
    for (int32_t i = 0; i < collection->nbFields; ++i)
    {
        PluginField field = collection->fields[i];
        auto const* const data = static_cast<std::byte const*>(field.data);
        storage.push_back({std::byte{0}});
        storage.back().insert(storage.back().end(), data, data + 4);
        field.data = storage.back().data() + 1;
        fields.push_back(field);
    }
    Plugin const restored = create(fields, TensorRTPhase::kRUNTIME);
    CHECK(restored != nullptr);
    CHECK(build(restored).getMetadataString() == std::string("threshold=0.100000001,capacity=17,protect_first=0"));
    CHECK(build(restored).getTimingCacheID() == std::string(build(plugin).getTimingCacheID()));
    CHECK(build(plugin).getTimingCacheID() != std::string(build(create(0.1F, 16, 0)).getTimingCacheID()));
}

std::vector<DimsExprs> inputShapes(FakeExprBuilder& builder, int64_t batch, int64_t length, int64_t width)
{
    return {builder.expressions(dims({batch, length, width})), builder.expressions(dims({batch, length})),
        builder.expressions(dims({batch, length})), builder.expressions(dims({batch, length}))};
}

void testShapes()
{
    context = "shapes";
    FakeExprBuilder builder;
    DimsExprs outputs[4]{};
    auto const infer = [&](int32_t capacity, std::vector<DimsExprs> const& inputs)
    {
        Plugin const plugin = create(0.5F, capacity, 1);
        return build(plugin).getOutputShapes(
                   inputs.data(), static_cast<int32_t>(inputs.size()), nullptr, 0, outputs, 4, builder)
            == 0;
    };
    CHECK(infer(0, inputShapes(builder, 8, 128, 384)));
    CHECK(outputs[0].nbDims == 3 && outputs[0].d[0]->getConstantValue() == 8);
    CHECK(outputs[0].d[1]->getConstantValue() == 128 && outputs[0].d[2]->getConstantValue() == 384);
    CHECK(outputs[3].nbDims == 1 && outputs[3].d[0]->getConstantValue() == 8);
    CHECK(infer(40, inputShapes(builder, 8, 128, 384)));
    CHECK(outputs[0].d[1]->getConstantValue() == 40);
    CHECK(outputs[1].nbDims == 2 && outputs[1].d[1]->getConstantValue() == 40);
    CHECK(outputs[2].nbDims == 2 && outputs[2].d[1]->getConstantValue() == 40);
    CHECK(infer(0, inputShapes(builder, -1, -1, 384)));  // symbolic
    CHECK(!outputs[0].d[1]->isConstant());

    CHECK(!infer(129, inputShapes(builder, 8, 128, 384)));  // more rows out than in
    CHECK(logger.last.find("capacity 129 exceeds the length of hidden [8, 128, 384]") != std::string::npos);
    CHECK(!infer(0, inputShapes(builder, 8, 4097, 384)));
    CHECK(!infer(0, inputShapes(builder, 8, 0, 384)));
    std::vector<DimsExprs> inputs = inputShapes(builder, 8, 128, 384);
    inputs[1] = builder.expressions(dims({8, 127}));
    CHECK(!infer(0, inputs));
    CHECK(
        logger.last.find("score must be [batch, length] of hidden [8, 128, 384], found [8, 127]") != std::string::npos);
    inputs = inputShapes(builder, 8, 128, 384);
    inputs[0] = builder.expressions(dims({8, 128}));
    CHECK(!infer(0, inputs));
    inputs.pop_back();
    CHECK(!infer(0, inputs));
}

void testFormats()
{
    context = "formats";
    Plugin const plugin = create(0.5F, 0, 1);
    std::vector<DataType> const good = {DataType::kHALF, DataType::kFLOAT, DataType::kINT32, DataType::kINT32,
        DataType::kHALF, DataType::kINT32, DataType::kINT32, DataType::kINT32};
    std::vector<DynamicPluginTensorDesc> tensors(8);
    for (size_t i = 0; i < tensors.size(); ++i)
    {
        tensors[i].desc = tensor(dims({1, 2}), good[i]);
    }
    for (int32_t pos = 0; pos < 8; ++pos)
    {
        CHECK(build(plugin).supportsFormatCombination(pos, tensors.data(), 4, 4));
        std::vector<DynamicPluginTensorDesc> changed = tensors;
        changed[pos].desc.format = TensorFormat::kCHW32;
        CHECK(!build(plugin).supportsFormatCombination(pos, changed.data(), 4, 4));
        changed = tensors;
        changed[pos].desc.type = DataType::kINT8;
        CHECK(!build(plugin).supportsFormatCombination(pos, changed.data(), 4, 4));
    }
    for (DataType const type : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16})
    {
        tensors[0].desc.type = tensors[4].desc.type = type;
        CHECK(build(plugin).supportsFormatCombination(0, tensors.data(), 4, 4));
        CHECK(build(plugin).supportsFormatCombination(4, tensors.data(), 4, 4));
        DataType const inputs[4] = {type, DataType::kFLOAT, DataType::kINT32, DataType::kINT32};
        DataType outputs[4]{};
        CHECK(build(plugin).getOutputDataTypes(outputs, 4, inputs, 4) == 0);
        CHECK(outputs[0] == type && outputs[1] == DataType::kINT32 && outputs[3] == DataType::kINT32);
    }
    tensors[4].desc.type = DataType::kHALF;
    CHECK(!build(plugin).supportsFormatCombination(4, tensors.data(), 4, 4));  // packed is not as hidden
    CHECK(!build(plugin).supportsFormatCombination(8, tensors.data(), 4, 4));
    CHECK(!build(plugin).supportsFormatCombination(0, tensors.data(), 3, 4));
}

void testProfiles()
{
    context = "profiles";
    auto const configure = [](int32_t capacity, int64_t shortest, int64_t longest)
    {
        auto const tensorOf = [&](bool isHidden)
        {
            auto const shape = [&](int64_t length) { return isHidden ? dims({2, length, 8}) : dims({2, length}); };
            return range(tensor(shape(-1), DataType::kFLOAT), shape(shortest), shape(longest));
        };
        DynamicPluginTensorDesc const in[4] = {tensorOf(true), tensorOf(false), tensorOf(false), tensorOf(false)};
        Plugin const plugin = create(0.5F, capacity, 1);
        return build(plugin).configurePlugin(in, 4, in, 4);
    };
    CHECK(configure(16, 16, 128) == 0);
    CHECK(configure(17, 16, 128) != 0);
    CHECK(configure(0, 1, 4096) == 0);
    CHECK(configure(0, 1, 4097) != 0);
}

void testEnqueue(std::string const& path)
{
    for (Case const& golden : readCases(path))
    {
        context = "enqueue of " + golden.name;
        TokenCompactCall const call = fromCase(golden, 2);
        TokenCompactOutputs outputs = call.blank();
        int64_t const width = call.rowBytes / 2;
        Plugin const plugin
            = create(call.threshold, golden.one<int32_t>("capacity"), golden.one<int32_t>("protect_first"));
        PluginTensorDesc const in[4] = {tensor(dims({call.batch, call.length, width}), DataType::kHALF),
            tensor(dims({call.batch, call.length}), DataType::kFLOAT),
            tensor(dims({call.batch, call.length}), DataType::kINT32),
            tensor(dims({call.batch, call.length}), DataType::kINT32)};
        PluginTensorDesc const out[4] = {tensor(dims({call.batch, call.capacity, width}), DataType::kHALF),
            tensor(dims({call.batch, call.capacity}), DataType::kINT32),
            tensor(dims({call.batch, call.capacity}), DataType::kINT32), tensor(dims({call.batch}), DataType::kINT32)};
        CHECK(runtime(plugin).onShapeChange(in, 4, out, 4) == 0);
        CHECK(runtime(plugin).onShapeChange(in, 4, in, 4) != 0);
        void const* const inputs[4] = {call.hidden.data(), call.score.data(), call.alive.data(), call.position.data()};
        void* const results[4]
            = {outputs.packed.data(), outputs.alive.data(), outputs.position.data(), outputs.count.data()};
        CHECK(runtime(plugin).enqueue(in, out, inputs, results, nullptr, nullptr) == 0);
        CHECK(outputs == expected(golden, call));
    }
}

}  // namespace

int main(int argc, char** argv)
{
    if (argc != 2)
    {
        std::cerr << "usage: " << argv[0] << " CASES.txt\n";
        return 2;
    }
    setLoggerFinder(&logger);
    testIdentity();
    testBadFields();
    testSerialization();
    testShapes();
    testFormats();
    testProfiles();
    testEnqueue(argv[1]);
    setLoggerFinder(nullptr);
    return finish();
}
