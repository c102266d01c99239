"""The layers of an engine, from the build log and from both formats of the inspector."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from engines.backends.layers import (
    Layer,
    by_profile,
    fused_attention,
    fusible_attention,
    int8_products,
    parse_build_log,
    parse_inspector,
)

TENSOR = (
    "Dimensions: [8,128,384], Strides: [49152,384,1], StrideOrder: [2,1,0], Datatype: {}, Format: (Linear) Row major"
)
HALF, INT = TENSOR.format("Half"), TENSOR.format("Int32")
LOG = "\n".join(
    [
        "[INFO] something before",
        "[VERBOSE] Layers:",
        f"Name: _gemm_mha_v2_myl0_3, LayerType: kgen, Inputs: [ {{ Name: q, {HALF} }}, {{ Name: k, {HALF} }}], "
        f"Constants: [], Outputs: [ {{ Name: o, {HALF} }}], TacticName: _gemm_mha_v2_0x1e84, StreamId: 0, "
        "Metadata: [ONNX Layer: node_a][ONNX Layer: f | c (F)]",
        "Name: signal, 1_myl0_4, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , "
        "StreamId: 1, EventId: 1, Metadata: ",
        f"Name: compact_myl0_5, LayerType: custom_layer, Inputs: [ {{ Name: o, {HALF} }}, {{ Name: a, {INT} }}], "
        f"Constants: [ {{ Name: w, {HALF} }}], Outputs: [ {{ Name: p, {HALF} }}, {{ Name: c, {INT} }}], "
        "TacticName: , StreamId: 0, Metadata: [ONNX Layer: compact]",
        "",
        "I/O Tensors:",
        " Name: o, IOMode: Output",
    ]
)
ATTENTION = Layer(
    name="_gemm_mha_v2_myl0_3",
    kind="kgen",
    tactic="_gemm_mha_v2_0x1e84",
    inputs=("Half", "Half"),
    outputs=("Half",),
    nodes=("node_a", "f | c (F)"),
)


def test_the_build_log() -> None:
    layers = parse_build_log(LOG)
    assert layers[0] == ATTENTION
    assert (layers[1].name, layers[1].kind, layers[1].inputs, layers[1].nodes) == ("signal, 1_myl0_4", "signal", (), ())
    assert (layers[2].inputs, layers[2].outputs) == (("Half", "Int32"), ("Half", "Int32"))
    assert len(layers) == 3 and fused_attention(layers) == 1
    assert parse_build_log("[VERBOSE] nothing of the kind") == []


PROFILES = "\n".join(
    [
        "Layers:",
        f"Name: __myl_Cast_myl0_0, LayerType: kgen, Inputs: [ {{ Name: alive, {INT} }}], Outputs: [], ",
        f"Name: __myl_Fc_myl1_0, LayerType: kgen, Inputs: [ {{ Name: x_myl1, {HALF} }}], Outputs: [], ",
        f"Name: node_a [profile 2]_myl1_1, LayerType: gemm, Inputs: [ {{ Name: y, {HALF} }}], Outputs: [], ",
        f"Name: compact, LayerType: custom_layer, Inputs: [ {{ Name: alive [profile 1], {INT} }}], Outputs: [], ",
    ]
)


def test_layers_by_profile() -> None:
    """Their own names, their tensors' and the compiled graph that they are part of tell; the first is never named."""
    found = by_profile(parse_build_log(PROFILES), 3)
    names = [[layer.name for layer in profile] for profile in found]
    assert names == [["__myl_Cast_myl0_0"], ["compact"], ["__myl_Fc_myl1_0", "node_a [profile 2]_myl1_1"]]


def test_a_log_of_another_form_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="expected a layer, found 'Layer 7"):
        parse_build_log("Layers:\nLayer 7: gemm\n")


def inspected(inputs: list[dict], outputs: list[dict]) -> str:
    """The inspector's JSON of one layer."""
    entry = {
        "Name": "_gemm_mha_v2_myl0_3",
        "LayerType": "kgen",
        "Inputs": inputs,
        "Outputs": outputs,
        "TacticName": "_gemm_mha_v2_0x1e84",
        "StreamId": 0,
        "Metadata": "[ONNX Layer: node_a][ONNX Layer: f | c (F)]",
    }
    return json.dumps({"Layers": [entry], "Bindings": []})


def test_the_inspector_of_tensorrt_10() -> None:
    half = {"Name": "q", "Dimensions": [8, 128], "Format/Datatype": "Row major linear FP16 format (kLINEAR)"}
    (layer,) = parse_inspector(inspected([half, half], [{**half, "Format/Datatype": "Half"}]))
    assert layer.inputs == ("FP16", "FP16") and layer.outputs == ("HALF",)
    assert layer.is_fused_attention and layer.nodes == ATTENTION.nodes


@pytest.mark.parametrize(
    ("described", "datatype"),
    [
        ("Row major Int8 format", "INT8"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "INT8"),
        ("Channel major INT8 format where channel % 16 == 0", "INT8"),
        ("Row major linear Int32", "INT32"),
        ("Row major linear FP32", "FP32"),
        ("Channel major FP16 format where channel % 8 == 0", "FP16"),
        ("Row major linear BFloat16 format", "BFLOAT16"),
        ("Row major linear UInt8 format", "UINT8"),
        ("Row major linear BOOL", "BOOL"),
        ("Half(64,1:8,32768)", "HALF"),
        ("Float", "FLOAT"),
        ("Unknown format", "Unknown format"),
    ],
)
def test_the_type_in_what_tensorrt_10_writes_about_a_format(described: str, datatype: str) -> None:
    tensor = {"Name": "q", "Dimensions": [8, 128], "Format/Datatype": described}
    layers = parse_inspector(inspected([tensor], []))
    assert layers[0].inputs == (datatype,)
    assert int8_products(layers, ["node_a"]) == ({"node_a"} if datatype == "INT8" else set())


def test_the_inspector_of_tensorrt_11() -> None:
    half = {"Name": "q", "Dimensions": [8, 128], "Format": "Row major linear", "Datatype": "Half"}
    assert parse_inspector(inspected([half, half], [half])) == [ATTENTION]


def test_products_in_int8_are_those_of_layers_that_read_it() -> None:
    """A helper behind the product names the product too, but reads what that has widened."""
    product = Layer("a+b", "gemm", "", ("Int8",), ("Half",), ("a", "a_DequantizeLinear", "b"))
    helper = Layer("scale", "kgen", "", ("Half",), ("Half",), ("a", "c"))
    standard = Layer("d", "CaskGemmMatrixMultiply", "", ("INT8", "INT8"), ("FP16",), ("d", "e"))
    assert int8_products([product, helper, standard], ["a", "b", "c", "d"]) == {"a", "b", "d"}


@pytest.mark.parametrize("text", ["[]", "{}", '{"Layers": ["only a name"]}', "{"])
def test_what_the_inspector_does_not_write(text: str) -> None:
    with pytest.raises(ValueError):
        parse_inspector(text)


@pytest.mark.parametrize(
    ("steps", "count"),
    [
        ([], 0),
        (["attend 0", "decide 0"], 0),  # the score reads the probabilities
        (["attend 0", "feed 0", "attend 1", "decide 1"], 1),
        (["decide 0", "attend 0", "feed 0", "decide 1", "attend 1", "feed 1"], 2),  # Transkimmer decides before
        (["attend 11", "feed 11"], 1),
    ],
)
def test_attention_can_be_one_kernel_where_no_score_follows(steps: list[str], count: int) -> None:
    assert fusible_attention(steps) == count


def test_layers_survive_json() -> None:
    assert Layer.from_json(json.loads(json.dumps(asdict(ATTENTION)))) == ATTENTION
