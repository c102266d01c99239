"""What is asked of a stage graph before a library that runs native code on it reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError
from engines.stages import DOMAIN, OPERATOR

if TYPE_CHECKING:
    import onnx

_LARGEST = 2**31 - 1  # bytes of a protobuf message
_DEEPEST = 16
"""Functions that call functions, and graphs inside nodes: ours are one level deep, and parsers recurse over them."""


def count_compactions(path: Path) -> int:
    """The number of TokenCompact nodes of a stage graph.

    Raises InputError unless it is a readable ONNX graph that holds its weights itself: a reference to another file
    could name any file of this machine.
    """
    state = path.stat()
    return _checked(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _checked(path: Path, modified: int, size: int) -> int:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if size > _LARGEST:
        raise InputError(f"{path}: expected an ONNX graph of at most {_LARGEST} bytes, found {size}; cut more stages")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise InputError(f"{path}: expected an ONNX graph, found {error}") from None
    if not model.graph.node:
        raise InputError(f"{path}: expected an ONNX graph, found one without nodes; the file is empty or cut off")
    newest = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        if entry.domain == "" and entry.version > newest:
            raise InputError(f"{path}: expected operators of opset {newest} or older, found {entry.version}")
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InputError(f"{path}: expected weights inside the graph, found {tensor.name!r} in another file")
    _check_depth(path, model)
    return sum(node.op_type == OPERATOR and node.domain == DOMAIN for node in model.graph.node)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in _nodes([*model.graph.node, *(node for function in model.functions for node in function.node)]):
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """These nodes and those of the graphs inside them. The decoder bounds how deep these can be."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _nodes(graph.node)


def _check_depth(path: Path, model: onnx.ModelProto) -> None:
    calls = {function.name: {node.op_type for node in _nodes(function.node)} for function in model.functions}
    reached: set[str] = set()
    for _ in range(_DEEPEST):
        reached |= {name for name, called in calls.items() if called & calls.keys() <= reached}
    if len(reached) < len(calls):
        raise InputError(
            f"{path}: expected functions that call each other at most {_DEEPEST} deep, found deeper ones or a circle"
        )
