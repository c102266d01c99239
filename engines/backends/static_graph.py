"""The engine file of the target `cpu`: a stage graph made static for one bucket, its weights shared."""

from __future__ import annotations

import hashlib
import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from engines.buckets import Bucket
from engines.errors import InputError
from engines.writing import write_whole

if TYPE_CHECKING:
    import onnx

_SHARED_FROM = 1024
"""Initializers of at least so many bytes live in the shared weights file, smaller ones in the graph."""
_ALIGNMENT = 4096
"""Offsets in the weights file are multiples of a page, so that providers map them instead of copying."""


def write_static_graph(stage_graph: Path, bucket: Bucket, out: Path) -> None:
    """Writes `stage_graph` for the shape of `bucket`: functions inlined, shapes static, constants folded.

    The weights go to one file beside `out` that is named by their digest, so that all buckets of a stage share it.
    Raises InputError for a file that is not such a graph.
    """
    import onnx

    state = stage_graph.stat()
    prepared, location, weights = _prepared(stage_graph, state.st_mtime_ns, state.st_size)
    if location is not None and not (out.parent / location).exists():
        write_whole(out.parent / location, weights)
    model = onnx.ModelProto.FromString(prepared)
    _fix_shapes(model, bucket, stage_graph)
    write_whole(out, _folded(model).SerializeToString(deterministic=True))


@lru_cache(maxsize=1)  # a build compiles one stage for all its buckets, then the next
def _prepared(stage_graph: Path, modified: int, size: int) -> tuple[bytes, str | None, bytes]:
    """The graph with its functions inlined and its weights taken out; the weights' file name and content."""
    import onnx.inliner
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(stage_graph)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(f"{stage_graph}: expected an ONNX graph, found {error}") from None
    location, weights = _take_weights(model, stage_graph.stem)
    model = onnx.inliner.inline_local_functions(model)
    _split_key_transposes(model)
    return model.SerializeToString(), location, weights


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


def _fix_shapes(model: onnx.ModelProto, bucket: Bucket, source: Path) -> None:
    """Sets batch and length, the first two dimensions of every input, and forgets what followed from them."""
    if not model.graph.input:
        raise InputError(f"{source}: expected an ONNX graph with inputs, found none; the file is empty or cut off")
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) < 2 or any(not dim.dim_value for dim in dims[2:]):
            found = [dim.dim_param or dim.dim_value for dim in dims]
            raise InputError(f"{source}: input {value.name!r}: expected [batch, length, ...], found {found}")
        for dim, size in zip(dims, (bucket.batch, bucket.length), strict=False):
            if dim.dim_value not in (0, size):
                raise InputError(f"{source}: input {value.name!r}: expected a symbolic shape, found {dim.dim_value}")
            dim.dim_value = size
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Folds what is constant once the shapes are known, and drops what nothing reads."""
    from onnxscript import optimizer
    from onnxscript.ir import serde

    graph = serde.deserialize_model(model)
    # It warns of each small table that it would fold and that is in the weights file; it is left as it is, and right.
    logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)
    optimizer.fold_constants(graph, onnx_shape_inference=True)
    optimizer.remove_unused_nodes(graph)
    return serde.serialize_model(graph)


def _take_weights(model: onnx.ModelProto, stem: str) -> tuple[str | None, bytes]:
    """Makes the large initializers external; returns the name and the content of the file that they refer to."""
    from onnx import TensorProto, numpy_helper

    content, places = bytearray(), {}
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        block = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
        if len(block) >= _SHARED_FROM:
            content.extend(bytes(-len(content) % _ALIGNMENT))
            places[tensor.name] = (len(content), len(block))
            content.extend(block)
    if not places:
        return None, b""
    location = f"{stem}.{hashlib.sha256(content).hexdigest()[:16]}.weights"
    for tensor in model.graph.initializer:
        if tensor.name in places:
            offset, length = places[tensor.name]
            external = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            external.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
                external.external_data.add(key=key, value=value)
            tensor.CopyFrom(external)
    return location, bytes(content)
