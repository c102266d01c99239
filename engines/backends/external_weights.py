"""Finds the weights that an ONNX graph has in files beside it, without the onnx package, which a deployment lacks.

The graph's protobuf is walked field by field (onnx.proto, protobuf's encoding); everything else is copied as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.errors import InputError
from engines.files import path_problem

_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""By message, the fields that may lead to a tensor, and what they hold."""
_GRAPH, _INITIALIZER, _INPUT = 7, 5, 11
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 64
"""Messages inside messages: ours are seven deep, or twelve inside a function."""
_TYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64}
BFLOAT16 = 16
"""ONNX's type whose values NumPy does not know: they are given as their bits."""
_TYPES[BFLOAT16] = np.uint16
_EXTERNAL = 1

Read = Callable[[Path], np.ndarray]
"""Gives the bytes of a file: of an engine, and of the weights beside it."""


@dataclass(frozen=True)
class Weight:
    """A weight of a graph: its name, its ONNX type, and its values (of bf16 their bits), which lie in a file."""

    name: str
    kind: int
    values: np.ndarray


def external_weights(engine_file: Path, graph: np.ndarray, read: Read) -> list[Weight]:
    """The initializers of a graph that lie in other files; their values share the memory of what `read` gives.

    Raises InputError for a file that is no ONNX graph, for a weight that is not in a file beside it, and for any other
    tensor that names a file: a library would look for that itself.
    """
    data = graph.data
    try:
        found = list(_external(data, "model", ()))
        if any(path != _TOP for path, _, _ in found):
            raise InputError(f"{engine_file}: expected only initializers in other files, found another tensor")
        return [_weight(engine_file, data[start:end], read) for _, start, end in found]
    except (IndexError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{engine_file}: expected an ONNX graph, found {error or 'another file'}") from None


def with_inputs(graph: np.ndarray, weights: Sequence[Weight]) -> bytes:
    """The graph whose external initializers are inputs of the same names; `weights` are all of them."""
    parts, data = [], graph.data
    for number, _, start, value, end in _fields(data):
        if number != _GRAPH or not weights:
            parts.append(bytes(data[start:end]))
            continue
        inner = data[value:end]
        kept = [
            bytes(inner[first:last])
            for field, _, first, at, last in _fields(inner)
            if field != _INITIALIZER or not _is_external(inner[at:last])
        ]
        parts.append(_message(_GRAPH, b"".join([*kept, *(_message(_INPUT, _input(weight)) for weight in weights)])))
    return b"".join(parts)


_TOP = ("graph", "tensor")


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, int, int]]:
    """Number, kind, and start of every field of a message; start and end of its value."""
    at, end = 0, len(data)
    while at < end:
        start = at
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, (_, at) = at, _varint(data, at)
        elif kind == _BYTES:
            size, value = _varint(data, at)
            at = value + size
        elif kind in (_FIXED32, _FIXED64):
            value, at = at, at + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"a field of the kind {kind}")
        if at > end:
            raise ValueError("a field that is cut off")
        yield number, kind, start, value, at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number that is too long")


def _external(
    data: memoryview, message: str, path: tuple[str, ...], offset: int = 0
) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """The messages that lead to every tensor that names another file, and where in the graph the tensor lies."""
    if len(path) > _DEEPEST:
        raise ValueError(f"messages more than {_DEEPEST} deep")
    children = _CHILDREN[message]
    for number, kind, _, start, end in _fields(data):
        child = children.get(number)
        if child is None or kind != _BYTES:
            continue
        inner = data[start:end]
        if child == "tensor":
            if _is_external(inner):
                yield (*path, child), offset + start, offset + end
        else:
            yield from _external(inner, child, (*path, child), offset + start)


def _is_external(tensor: memoryview) -> bool:
    """Whether it says where its values are, or only that they are elsewhere."""
    for number, kind, _, start, _ in _fields(tensor):
        if number == 13 or (number == 14 and kind == _VARINT and _varint(tensor, start)[0] == _EXTERNAL):
            return True
    return False


def _weight(engine_file: Path, tensor: memoryview, read: Read) -> Weight:
    name, kind, shape, entries = "", 0, list[int](), dict[str, str]()
    for number, wire, _, start, end in _fields(tensor):
        if number == 1 and wire == _BYTES:  # packed
            while start < end:
                size, start = _varint(tensor, start)
                shape.append(size)
        elif number == 1:
            shape.append(_varint(tensor, start)[0])
        elif number == 2:
            kind = _varint(tensor, start)[0]
        elif number == 8:
            name = str(tensor[start:end], "utf-8")
        elif number == 13:
            pair = {n: str(tensor[start:end][s:e], "utf-8") for n, _, _, s, e in _fields(tensor[start:end])}
            entries[pair.get(1, "")] = pair.get(2, "")
    where = f"{engine_file}: weight {name!r}"
    location = entries.get("location", "")
    if path_problem(location) is not None or "/" in location:
        raise InputError(f"{where}: expected a file beside it, found {location!r}")
    if kind not in _TYPES:
        raise InputError(f"{where}: expected one of ONNX's types {', '.join(map(str, _TYPES))}, found {kind}")
    dtype = np.dtype(_TYPES[kind])
    size, offset = math.prod(shape) * dtype.itemsize, int(entries.get("offset", "0"))
    content = read(engine_file.with_name(location))
    if int(entries.get("length", size)) != size or not 0 <= offset <= len(content) - size or offset % dtype.itemsize:
        raise InputError(
            f"{where}: expected {size} bytes at a place for {dtype}, found {entries.get('length')} at {offset} of "
            f"{len(content)}"
        )
    return Weight(name, kind, content[offset : offset + size].view(dtype).reshape(shape))


def _input(weight: Weight) -> bytes:
    """ValueInfoProto: name, and type with a tensor type of element type and shape."""
    shape = b"".join(_message(1, _number(1, size)) for size in weight.values.shape)
    tensor = _number(1, weight.kind) + _message(2, shape)
    return _message(1, weight.name.encode()) + _message(2, _message(1, tensor))


def _message(number: int, content: bytes) -> bytes:
    return _encoded(number << 3 | _BYTES) + _encoded(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _encoded(number << 3 | _VARINT) + _encoded(value)


def _encoded(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
