"""ONNX models around one TokenCompact node."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from pipeline.graph.function import token_compact_function

IR_VERSION = 10
OPSET = 20

INPUTS = ("hidden", "score", "alive", "position")
OUTPUTS = ("packed", "packed_alive", "packed_position", "count")
_OUTPUT_RANKS = {"packed": 3, "packed_alive": 2, "packed_position": 2, "count": 1}


def token_compact_node(threshold: float, capacity: int = 0, protect_first: int = 1) -> onnx.NodeProto:
    """The node as the pipeline writes it."""
    return helper.make_node(
        "TokenCompact",
        INPUTS,
        OUTPUTS,
        name="compact",
        domain="skimrt",
        threshold=threshold,
        capacity=capacity,
        protect_first=protect_first,
        plugin_namespace="skimrt",
        plugin_version="1",
    )


def token_compact_model(
    node: onnx.NodeProto,
    dtype: int = TensorProto.FLOAT,
    shape: tuple = ("B", "S", 8),
    quantized: bool = False,
) -> onnx.ModelProto:
    """Just the node, or the node between Q/DQ pairs as in an INT8 stage; `dtype` is that of hidden."""
    batch, length, width = shape
    inputs = [
        helper.make_tensor_value_info("input", dtype, shape),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, (batch, length)),
        helper.make_tensor_value_info("alive", TensorProto.INT32, (batch, length)),
        helper.make_tensor_value_info("position", TensorProto.INT32, (batch, length)),
    ]
    around = _quantize_dequantize if quantized else _pass_on
    constants, before = around("input", "hidden", dtype)
    more_constants, after = around("packed", "output", dtype)
    outputs = [helper.make_tensor_value_info("output", dtype, [None, None, width])] + [
        helper.make_tensor_value_info(name, TensorProto.INT32, [None] * _OUTPUT_RANKS[name]) for name in OUTPUTS[1:]
    ]
    graph = helper.make_graph(
        [*before, node, *after], "compaction", inputs, outputs, initializer=[*constants, *more_constants]
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("skimrt", 1)],
        functions=[token_compact_function()],
        ir_version=IR_VERSION,
    )


def _pass_on(source: str, target: str, dtype: int) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    return [], [helper.make_node("Identity", [source], [target], name=f"{source}_to_{target}")]


def _quantize_dequantize(source: str, target: str, dtype: int) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    scale, zero, quantized = f"{source}_scale", f"{source}_zero", f"{source}_quantized"
    return [
        helper.make_tensor(scale, dtype, [], [0.05]),
        helper.make_tensor(zero, TensorProto.INT8, [], [0]),
    ], [
        helper.make_node("QuantizeLinear", [source, scale, zero], [quantized], name=f"{source}_quantize"),
        helper.make_node("DequantizeLinear", [quantized, scale, zero], [target], name=f"{source}_dequantize"),
    ]
