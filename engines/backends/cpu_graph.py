"""The engine file of the target `cpu`: a stage graph that its libraries read, its large weights in a file beside it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.buckets import Bucket
from engines.errors import InputError
from engines.plan import weights_file
from engines.stages import POOLED
from engines.writing import write_whole

if TYPE_CHECKING:
    import onnx

_SHARED_FROM = 1024
"""Initializers of at least this many bytes live in the weights file, smaller ones in the graph."""
_ALIGNMENT = 4096
"""Offsets in the weights file are multiples of a page, so that providers map them instead of copying."""


BOUNDS = "skimrt.bounds"
"""Entry of a graph's metadata: the least and the greatest batch and length of its buckets, such as 1-8x16-256."""


def write_cpu_graph(stage_graph: Path, buckets: Sequence[Bucket], out: Path) -> None:
    """Writes `stage_graph`, symbolic in batch and length, with its functions inlined and constants folded.

    Its metadata has the bounds of the buckets. Large weights go to a file beside `out` (`weights_file`). Raises
    InputError for a file that is not such a graph.
    """
    import onnx.inliner
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(stage_graph)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(f"{stage_graph}: expected an ONNX graph, found {error}") from None
    _require_symbolic(model, stage_graph)
    weights = Path(weights_file(str(out)))
    content = _take_weights(model, weights.name)
    model = onnx.inliner.inline_local_functions(model)
    _split_key_transposes(model)
    _widen_ends(model)
    if content:
        write_whole(weights, content)
    else:
        weights.unlink(missing_ok=True)
    folded = _folded(model)
    onnx.helper.set_model_props(folded, {BOUNDS: _bounds(buckets)})
    write_whole(out, folded.SerializeToString(deterministic=True))


def parse_bounds(text: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """The least and the greatest batch, then length, of `BOUNDS`. Raises ValueError for another text."""
    batch, length = ((int(least), int(most)) for least, most in (part.split("-") for part in text.split("x")))
    return batch, length


def _bounds(buckets: Sequence[Bucket]) -> str:
    batches, lengths = ([getattr(bucket, name) for bucket in buckets] for name in ("batch", "length"))
    return f"{min(batches)}-{max(batches)}x{min(lengths)}-{max(lengths)}"


def _split_key_transposes(model: onnx.ModelProto) -> None:
    """Transposes keys [batch, length, heads, size] in two steps, of which the second swaps the last two axes.

    A product of matrices takes its second operand transposed, so OpenVINO makes the swap a part of it; all in one step,
    as the exporter writes it, is a pass over memory of its own.
    """
    from onnx import helper

    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type == "Transpose" and list(node.attribute[0].ints) == [0, 2, 3, 1]:
            heads_first = f"{node.output[0]}.heads_first"
            first = helper.make_node(
                "Transpose", node.input, [heads_first], f"{node.name}.heads_first", perm=[0, 2, 1, 3]
            )
            swap = helper.make_node("Transpose", [heads_first], node.output, node.name, perm=[0, 1, 3, 2])
            model.graph.node.extend([first, swap])
        else:
            model.graph.node.append(node)


def _widen_ends(model: onnx.ModelProto) -> None:
    """Makes inputs and outputs in bf16 float32, which NumPy has, and converts them inside."""
    from onnx import TensorProto, helper

    graph = model.graph
    ends = [
        value for value in (*graph.input, *graph.output) if value.type.tensor_type.elem_type == TensorProto.BFLOAT16
    ]
    inner = {value.name: f"{value.name}.narrow" for value in ends}
    for node in graph.node:
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
    taken, nodes = {value.name for value in graph.input}, list(graph.node)
    for value in ends:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        outer, narrow = value.name, inner[value.name]
        if outer in taken:
            nodes.insert(0, helper.make_node("Cast", [outer], [narrow], narrow, to=TensorProto.BFLOAT16))
        else:
            nodes.append(helper.make_node("Cast", [narrow], [outer], narrow, to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)


def _require_symbolic(model: onnx.ModelProto, source: Path) -> None:
    """Raises InputError unless of every input only the first two dimensions, batch and length, are symbolic; of what
    a sample has once, the first."""
    if not model.graph.input:
        raise InputError(f"{source}: expected an ONNX graph with inputs, found none; the file is empty or cut off")
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        found = [dim.dim_param or dim.dim_value for dim in dims]
        if len(dims) < 2 or any(not dim.dim_value for dim in dims[2:]):
            raise InputError(f"{source}: input {value.name!r}: expected [batch, length, ...], found {found}")
        if any(dim.dim_value for dim in dims[: 1 if value.name == POOLED else 2]):
            raise InputError(f"{source}: input {value.name!r}: expected a symbolic shape, found {found}")


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Folds what is constant, and drops what nothing reads."""
    from onnxscript import optimizer
    from onnxscript.ir import serde

    graph = serde.deserialize_model(model)
    # It warns of each small table that it would fold and that is in the weights file; it is left as it is, and right.
    logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)
    optimizer.fold_constants(graph, onnx_shape_inference=True)
    optimizer.remove_unused_nodes(graph)
    return serde.serialize_model(graph)


def _take_weights(model: onnx.ModelProto, location: str) -> bytes:
    """Makes the large initializers external; returns the content of the file at `location` that they refer to."""
    from onnx import TensorProto, numpy_helper

    content, spans = bytearray(), {}
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        block = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
        if len(block) >= _SHARED_FROM:
            content.extend(bytes(-len(content) % _ALIGNMENT))
            spans[tensor.name] = (len(content), len(block))
            content.extend(block)
    for tensor in model.graph.initializer:
        if tensor.name in spans:
            offset, length = spans[tensor.name]
            external = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            external.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
                external.external_data.add(key=key, value=value)
            tensor.CopyFrom(external)
    return bytes(content)
