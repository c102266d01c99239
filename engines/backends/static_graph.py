"""The engine file of the target `cpu`: a stage graph made static for one bucket, its weights shared."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from engines.buckets import Bucket
from engines.errors import InputError

if TYPE_CHECKING:
    import onnx

_SHARED_FROM = 1024
"""Initializers of at least so many bytes live in the shared weights file, smaller ones in the graph."""
_ALIGNMENT = 4096
"""Offsets in the weights file are multiples of a page, so that providers map them instead of copying."""


def write_static_graph(stage_graph: Path, bucket: Bucket, out: Path) -> None:
    """Writes `stage_graph` for the shape of `bucket`: functions inlined, shapes static, constants folded.

    The weights go to one file beside `out` that is named by their digest, so that all buckets of a stage
    share it. Raises InputError for a file that is not such a graph.
    """
    import onnx
    import onnx.inliner
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(stage_graph)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(f"{stage_graph}: expected an ONNX graph, found {error}") from None
    model = onnx.inliner.inline_local_functions(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    _fix_shapes(model, bucket, stage_graph)
    model = _folded(model)
    _share_weights(model, weights, out.parent, stage_graph.stem)
    _write(out, model.SerializeToString(deterministic=True))


def _fix_shapes(model: onnx.ModelProto, bucket: Bucket, source: Path) -> None:
    """Sets batch and length, the first two dimensions of every input, and forgets what followed from them."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) < 2 or any(not dim.dim_value for dim in dims[2:]):
            found = [dim.dim_param or dim.dim_value for dim in dims]
            raise InputError(f"{source}: input {value.name!r}: expected [batch, length, ...], found {found}")
        for dim, size in zip(dims, (bucket.batch, bucket.length), strict=False):
            if dim.dim_value not in (0, size):
                raise InputError(
                    f"{source}: input {value.name!r}: expected a symbolic shape, found {dim.dim_value}"
                )
            dim.dim_value = size
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Folds what is constant once the shapes are known, and drops what nothing reads."""
    import onnx
    import onnxscript.optimizer

    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return onnxscript.optimizer.optimize(model)


def _share_weights(model: onnx.ModelProto, names: set[str], folder: Path, stem: str) -> None:
    """Moves the initializers called `names` to the shared file; later buckets of the stage find it there."""
    from onnx import TensorProto, numpy_helper

    shared = [t for t in model.graph.initializer if t.name in names]
    blocks = {
        t.name: t.raw_data or numpy_helper.to_array(t).tobytes() for t in sorted(shared, key=lambda t: t.name)
    }
    content, places = bytearray(), {}
    for name, block in blocks.items():
        if len(block) >= _SHARED_FROM:
            content.extend(bytes(-len(content) % _ALIGNMENT))
            places[name] = (len(content), len(block))
            content.extend(block)
    if not places:
        return
    location = f"{stem}.{hashlib.sha256(content).hexdigest()[:16]}.weights"
    if not (folder / location).exists():
        _write(folder / location, content)
    for tensor in shared:
        if tensor.name in places:
            offset, length = places[tensor.name]
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)  # type: ignore[arg-type]
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
                tensor.external_data.add(key=key, value=value)


def _write(path: Path, content: bytes | bytearray) -> None:
    """Writes a file as a whole or not at all, so that an interrupted build does not leave half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
