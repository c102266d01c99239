"""Faults 15 and 16: what a graph must not be, seen before native code reads it."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from engines.backends.stage_graph import count_compactions
from engines.errors import InputError
from tests.engines.toy import Toy


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    """The model as a stage graph."""
    (folder / "stage_0.onnx").write_bytes(model.SerializeToString())
    return folder / "stage_0.onnx"


def test_compactions_are_counted(tmp_path: Path) -> None:
    assert count_compactions(saved(Toy().graph(0), tmp_path)) == 1
    assert count_compactions(saved(Toy(thresholds=()).graph(0), tmp_path)) == 0


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a graph"])
def test_what_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stage_0.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"stage_0\.onnx: expected an ONNX graph"):
        count_compactions(tmp_path / "stage_0.onnx")


def test_a_graph_beyond_what_protobuf_can_hold(tmp_path: Path) -> None:
    with (tmp_path / "stage_0.onnx").open("wb") as file:
        os.truncate(file.fileno(), 2**31)  # sparse, so that it takes no space
    with pytest.raises(InputError, match="at most 2147483647 bytes, found 2147483648; cut more stages"):
        count_compactions(tmp_path / "stage_0.onnx")


def test_operators_from_the_future(tmp_path: Path) -> None:
    model = Toy().graph(0)
    model.opset_import[0].version = 999
    with pytest.raises(InputError, match=r"expected operators of opset \d+ or older, found 999"):
        count_compactions(saved(model, tmp_path))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "stage_0.weights"])
@pytest.mark.parametrize("where", ["initializer", "constant", "function", "branch"])
def test_weights_in_another_file(tmp_path: Path, location: str, where: str) -> None:
    tensor = helper.make_tensor("weight", TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    constant = helper.make_node("Constant", [], ["weight"], value=tensor)
    model = Toy().graph(0)
    if where == "initializer":
        model.graph.initializer.append(tensor)
    elif where == "constant":
        model.graph.node.append(constant)
    elif where == "function":
        model.functions[0].node.append(constant)
    else:
        branch = helper.make_graph([constant], "branch", [], [])
        model.graph.node.append(helper.make_node("If", ["flag"], [], then_branch=branch, else_branch=branch))
    with pytest.raises(InputError, match="expected weights inside the graph, found 'weight' in another file"):
        count_compactions(saved(model, tmp_path))


def chain(depth: int, circle: bool) -> onnx.ModelProto:
    """Functions f0 ... that call each other in a row, the last one nothing or the first."""
    model = Toy().graph(0)
    for index in range(depth):
        last = index == depth - 1
        called = helper.make_node("Identity" if last and not circle else f"f{(index + 1) % depth}", ["x"], ["y"])
        if called.op_type != "Identity":
            called.domain = "local"
        function = helper.make_function("local", f"f{index}", ["x"], ["y"], [called], [helper.make_opsetid("", 20)])
        model.functions.append(function)
    return model


def test_functions_that_call_each_other(tmp_path: Path) -> None:
    assert count_compactions(saved(chain(8, circle=False), tmp_path)) == 1
    for model in (chain(3000, circle=False), chain(1, circle=True), chain(3, circle=True)):
        with pytest.raises(InputError, match="at most 16 deep, found deeper ones or a circle"):
            count_compactions(saved(model, tmp_path))
