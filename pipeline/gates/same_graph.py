"""Whether two ONNX files are the same graph: the same operators, wired alike, with the same weights, by value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

_NOTES = ("metadata_props", "doc_string")
"""Fields that say where in the source a node came from; no runtime reads them, and they name paths of a machine."""


def graph_difference(found: Path, expected: Path) -> str | None:
    """The first thing that is not as expected, or None. Neither file's external data are read."""
    try:
        ours = onnx.load(found, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        return f"expected an ONNX graph, found {type(error).__name__}"
    theirs = onnx.load(expected, load_external_data=False)
    for model in (ours, theirs):
        for part in _parts(model):
            for note in _NOTES:
                if note in part.DESCRIPTOR.fields_by_name and part is not model:
                    part.ClearField(note)
    if ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True):
        return None
    return _first_difference(ours, theirs)


def _parts(message: Message) -> Iterator[Message]:
    """A message and all that are in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None or field.name in _NOTES:
            continue
        for part in value if isinstance(value, Iterable) else [value]:
            yield from _parts(part)


def _first_difference(ours: onnx.ModelProto, theirs: onnx.ModelProto) -> str:
    weights = [{tensor.name: tensor for tensor in model.graph.initializer} for model in (ours, theirs)]
    if weights[0].keys() == weights[1].keys():
        for name, tensor in weights[1].items():
            if weights[0][name] != tensor:
                return f"tensor {name} has other values"
    pairs = zip(ours.graph.node, theirs.graph.node, strict=False)
    for ours_node, node in pairs:
        if ours_node != node:
            return f"operator {node.name or node.op_type}: {_field(ours_node, node)} differs"
    if len(ours.graph.node) != len(theirs.graph.node):
        return f"expected {len(theirs.graph.node)} operators, found {len(ours.graph.node)}"
    return f"{_field(ours.graph, theirs.graph) or _field(ours, theirs)} differs"


def _field(ours: Message, theirs: Message) -> str:
    """The first field of two messages that differs; of an operator's attributes, the attribute's name."""
    for field in theirs.DESCRIPTOR.fields:
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if mine == other:
            continue
        if field.name == "attribute":
            named = {attribute.name: attribute for attribute in mine}
            return next((a.name for a in other if named.get(a.name) != a), "an attribute")
        return str(field.name)
    return ""
