"""ONNX models with TokenCompact nodes, parsed and built by TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from plugins.library import PluginError, load_into, require_plugin_layers

from .models import token_compact_model, token_compact_node

BATCH, LENGTH, WIDTH, CAPACITY = 4, 128, 64, 40
CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")
PRECISIONS = {
    "fp32": (onnx.TensorProto.FLOAT, False),
    "fp16": (onnx.TensorProto.FLOAT16, False),
    "bf16": (onnx.TensorProto.BFLOAT16, False),
    "int8": (onnx.TensorProto.FLOAT16, True),
}


def parse(trt, logger, model: onnx.ModelProto):
    """(builder, network) of a model; a builder must outlive its network."""
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    return builder, network


def model_of(precision: str, capacity: int = CAPACITY) -> onnx.ModelProto:
    dtype, quantized = PRECISIONS[precision]
    node = token_compact_node(0.25, capacity)
    return token_compact_model(node, dtype, (BATCH, LENGTH, WIDTH), quantized)


@pytest.mark.parametrize("capacity", [0, CAPACITY])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_node_becomes_a_plugin_layer(rtx, plugin_library, log, precision: str, capacity: int) -> None:
    load_into(rtx, plugin_library)
    _builder, network = parse(rtx, log(rtx).logger, model_of(precision, capacity))
    require_plugin_layers(rtx, network, expected=1)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    (layer,) = [layer for layer in layers if layer.type == rtx.LayerType.PLUGIN_V3]
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    rows = capacity or LENGTH
    assert [tuple(output.shape) for output in outputs] == [
        (BATCH, rows, WIDTH),
        (BATCH, rows),
        (BATCH, rows),
        (BATCH,),
    ]
    assert outputs[0].dtype == layer.get_input(0).dtype
    assert [output.dtype for output in outputs[1:]] == [rtx.int32] * 3


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_builds_an_engine(rtx, plugin_library, log, precision: str, capability: str) -> None:
    load_into(rtx, plugin_library)
    messages = log(rtx)
    builder, network = parse(rtx, messages.logger, model_of(precision))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    assert config.set_compute_capability(getattr(rtx.ComputeCapability, capability), 0)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, messages.messages[-5:]
    # The engine names the plugin, which it finds again in the registry of the machine that loads it.
    assert b"TokenCompact" in bytes(engine)


def test_symbolic_shapes_are_made_static_on_the_network(rtx, plugin_library, log) -> None:
    load_into(rtx, plugin_library)
    model = token_compact_model(token_compact_node(0.25), shape=("B", "S", WIDTH))
    builder, network = parse(rtx, log(rtx).logger, model)
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        tensor.shape = (BATCH, LENGTH, *tuple(tensor.shape)[2:])
    assert tuple(network.get_output(0).shape) == (BATCH, LENGTH, WIDTH)
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None


def test_a_capacity_beyond_the_length_is_refused(rtx, plugin_library, log, capfd) -> None:
    load_into(rtx, plugin_library)
    messages = log(rtx)
    builder = rtx.Builder(messages.logger)
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, messages.logger)
    parser.parse(model_of("fp32", capacity=LENGTH + 1).SerializeToString())
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    # Where the calling thread has no logger, the reason goes to standard error.
    said = "\n".join([*messages.messages, capfd.readouterr().err])
    assert f"capacity {LENGTH + 1} exceeds the length of hidden [{BATCH}, {LENGTH}, {WIDTH}]" in said


@pytest.mark.parametrize("change", ["namespace", "version", "domain_only"])
def test_a_node_that_does_not_name_the_plugin_is_noticed(rtx, plugin_library, log, change: str) -> None:
    load_into(rtx, plugin_library)
    node = token_compact_node(0.25)
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if change == "domain_only":
        node.attribute.remove(attributes["plugin_namespace"])
    else:
        attributes[f"plugin_{change}"].s = b"other"
    _builder, network = parse(rtx, log(rtx).logger, token_compact_model(node))
    with pytest.raises(PluginError, match="expected 1 plugin layers for skimrt::TokenCompact, found 0"):
        require_plugin_layers(rtx, network, expected=1)


WITHOUT_LIBRARY = """
import json, sys
import tensorrt_rtx as trt
from plugins.library import PluginError, require_plugin_layers
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
parsed = trt.OnnxParser(network, logger).parse(sys.stdin.buffer.read())
try:
    require_plugin_layers(trt, network, expected=1)
    error = None
except PluginError as found:
    error = str(found)
engine = builder.build_serialized_network(network, builder.create_builder_config())
built = engine is not None
print(json.dumps({"parsed": parsed, "layers": network.num_layers, "error": error, "built": built}))
"""


def test_without_the_library_the_function_body_is_built_and_noticed(rtx) -> None:
    # A process of its own, because a library stays in the registry of the one that loaded it.
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBRARY],
        input=model_of("fp32").SerializeToString(),
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr.decode()
    found = json.loads(result.stdout)
    assert found["parsed"] and found["built"] and found["layers"] > 1
    assert "expected 1 plugin layers for skimrt::TokenCompact, found 0" in found["error"]
