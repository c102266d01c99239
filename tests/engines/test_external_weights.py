"""Weights in files beside an engine: found without onnx as onnx finds them, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from engines.backends.external_weights import external_weights, with_inputs
from engines.errors import InputError
from engines.files import content_of

ENGINE = Path("engines/stage_0.onnx")
CONTENT = np.arange(4096, dtype=np.uint8)


def external(name: str, dims: list[int], kind: int = TensorProto.FLOAT, **entries: object) -> TensorProto:
    tensor = TensorProto(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "a.weights", **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def graph_of(*tensors: TensorProto, nodes: list | None = None, **more) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    given = nodes or [helper.make_node("Identity", ["x"], ["y"])]
    graph = helper.make_graph(given, "stage", [value], [value], initializer=list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], **more)


def bytes_of(model: onnx.ModelProto) -> np.ndarray:
    return np.frombuffer(model.SerializeToString(), np.uint8)


def read(path: Path) -> np.ndarray:
    assert path == ENGINE.with_name("a.weights"), "nothing else is asked for"
    return CONTENT


shapes = st.lists(st.integers(0, 5), max_size=4)
kinds = st.sampled_from([TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT64, TensorProto.FLOAT16])


@given(st.lists(st.tuples(shapes, kinds, st.integers(0, 64)), max_size=4))
def test_values_and_inputs_are_those_that_onnx_finds(tensors: list) -> None:
    made = [external(f"w{i}", dims, kind, offset=8 * at) for i, (dims, kind, at) in enumerate(tensors)]
    inline = helper.make_tensor("small", TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = bytes_of(graph_of(inline, *made))
    weights = external_weights(ENGINE, graph, read)
    assert [(w.name, w.kind, list(w.values.shape)) for w in weights] == [
        (t.name, t.data_type, list(t.dims)) for t in made
    ]
    for weight, (_, _, at) in zip(weights, tensors, strict=True):
        assert weight.values.tobytes() == CONTENT[8 * at : 8 * at + weight.values.nbytes].tobytes()
        assert weight.values.nbytes == 0 or np.shares_memory(weight.values, CONTENT)
    found = onnx.ModelProto.FromString(with_inputs(graph, weights))
    assert [tensor.name for tensor in found.graph.initializer] == ["small"]
    ports = {value.name: value.type.tensor_type for value in found.graph.input}
    for tensor in made:
        assert ports[tensor.name].elem_type == tensor.data_type
        assert [dim.dim_value for dim in ports[tensor.name].shape.dim] == list(tensor.dims)
    assert list(found.graph.node) == list(graph_of().graph.node) and found.opset_import[0].version == 20


@pytest.mark.parametrize("location", ["../a.weights", "/etc/passwd", "sub/a.weights", "", "..", "*/_ORT_MEM_ADDR_/*"])
def test_a_location_that_is_not_beside_the_engine_is_refused(location: str) -> None:
    """Fault 15."""
    with pytest.raises(InputError, match="weight 'w': expected a file beside it, found"):
        external_weights(ENGINE, bytes_of(graph_of(external("w", [2], location=location))), read)


@pytest.mark.parametrize(
    "entries", [{"offset": 4095}, {"offset": -4}, {"offset": 2}, {"length": 4}, {"offset": 10**30}, {"length": "x"}]
)
def test_a_place_that_does_not_fit_is_refused(entries: dict) -> None:
    with pytest.raises(InputError, match=r"engines/stage_0\.onnx"):
        external_weights(ENGINE, bytes_of(graph_of(external("w", [2], **entries))), read)


@pytest.mark.parametrize("where", ["node", "inner graph", "function", "sparse"])
def test_a_tensor_elsewhere_that_names_a_file_is_refused(where: str) -> None:
    """A library would look for the file itself, and read whatever lies there."""
    tensor = external("w", [2])
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    if where == "node":
        model = graph_of(nodes=[node])
    elif where == "inner graph":
        inner = helper.make_graph([node], "inner", [], [])
        model = graph_of(nodes=[helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)])
    elif where == "function":
        function = helper.make_function("skimrt", "F", [], ["c"], [node], [helper.make_opsetid("", 20)])
        model = graph_of(functions=[function])
    else:
        model = graph_of()
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    with pytest.raises(InputError, match="expected only initializers in other files, found another tensor"):
        external_weights(ENGINE, bytes_of(model), read)


@given(st.data())
def test_damaged_graphs_are_refused_or_read_but_never_end_in_another_error(data) -> None:
    content = bytearray(graph_of(external("w", [2, 3], offset=8)).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    graph = np.frombuffer(bytes(content[: data.draw(st.integers(0, len(content)))]), np.uint8)
    try:
        with_inputs(graph, external_weights(ENGINE, graph, lambda path: CONTENT))
    except InputError as error:
        assert "engines/stage_0.onnx" in str(error)


def test_functions_that_hold_each_other_are_refused() -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    for _ in range(28):  # protobuf itself takes no more
        graph = helper.make_graph([node], "inner", [], [])
        node = helper.make_node("If", ["x"], ["y"], then_branch=graph)
    with pytest.raises(InputError, match="expected an ONNX graph, found messages more than 64 deep"):
        external_weights(ENGINE, bytes_of(graph_of(nodes=[node])), content_of)
