"""What the library made of a network: the layers of an engine, from TensorRT's inspector or from the build log."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from engines.stages import Step


@dataclass(frozen=True)
class Layer:
    """One layer of an engine, which is one kernel or a helper.

    kind:            the library's name for it, such as gemm, kgen (a generated kernel) or custom_layer (a plugin).
    inputs, outputs: data types, such as Half; where the inspector is TensorRT 10's, in capitals.
    nodes:           the ONNX nodes that it computes.
    profile:         the index of the profile that it belongs to.
    """

    name: str
    kind: str
    tactic: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]
    profile: int = 0

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Layer:
        """The inverse of dataclasses.asdict, by way of JSON, which has no tuples."""
        lists = {name: tuple(entry[name]) for name in ("inputs", "outputs", "nodes")}
        return cls(entry["name"], entry["kind"], entry["tactic"], **lists, profile=entry["profile"])

    @property
    def is_fused_attention(self) -> bool:
        """Whether one kernel computes a whole attention: both products and the softmax between them."""
        return any(re.search(r"mha|flash_?attn", text, re.IGNORECASE) for text in (self.name, self.tactic))


_LINE = re.compile(
    r"Name: (?P<name>.*), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>.*?)\], (?:Constants: \[.*?\], )?"
    r"Outputs: \[(?P<outputs>.*?)\], (?:TacticName: (?P<tactic>[^,]*), )?"
)
_TENSOR = re.compile(r"Datatype: ([^,}]+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# The one word of TensorRT 10's "Row major Int8 format", "Row major linear FP32" or "Half" that is a type.
_TYPE = re.compile(r"\b(FP\d+|BF(LOAT)?16|U?INT\d+|FLOAT|HALF|BOOL)\b", re.IGNORECASE)


def parse_build_log(text: str) -> list[Layer]:
    """The layers that the VERBOSE message starting with "Layers:" of a detailed build lists; [] without one."""
    _, found, rest = text.partition("Layers:\n")
    if not found:
        return []
    layers, lines = [], rest.split("\n\n")[0].splitlines()
    for line in lines:
        # A list of tensors ends with "}]"; dimensions inside it are in brackets of their own.
        match = _LINE.match(re.sub(r"\[(\d+(?:,\d+)*)\]", r"<\1>", line))
        if match is None:
            raise ValueError(f"build log: expected a layer, found {line[:200]!r}")
        layers.append(
            Layer(
                name=match["name"],
                kind=match["kind"],
                tactic=match["tactic"] or "",
                inputs=tuple(_TENSOR.findall(match["inputs"])),
                outputs=tuple(_TENSOR.findall(match["outputs"])),
                nodes=tuple(_NODE.findall(line)),
            )
        )
    return _with_profiles(layers, lines)


def parse_inspector(text: str) -> list[Layer]:
    """The layers of the JSON that IEngineInspector gives for an engine built with detailed verbosity.

    TensorRT 10 has one field "Format/Datatype" per tensor, which TensorRT 11 split. Raises ValueError for other
    JSON.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or not isinstance(content.get("Layers"), list):
        raise ValueError("inspector: expected an object with a list of Layers")
    layers = []
    for entry in content["Layers"]:
        if isinstance(entry, str):
            raise ValueError("inspector: found layer names only; build with detailed profiling verbosity")
        layers.append(
            Layer(
                name=entry["Name"],
                kind=entry.get("LayerType", ""),
                tactic=str(entry.get("TacticName", "")),
                inputs=tuple(_datatype(tensor) for tensor in entry.get("Inputs", [])),
                outputs=tuple(_datatype(tensor) for tensor in entry.get("Outputs", [])),
                nodes=tuple(_NODE.findall(str(entry.get("Metadata", "")))),
            )
        )
    return _with_profiles(layers, [json.dumps(entry) for entry in content["Layers"]])


_PROFILE, _GRAPH = re.compile(r"\[profile (\d+)\]"), re.compile(r"_myl(\d+)_\d+$")


def _with_profiles(layers: Sequence[Layer], texts: Sequence[str]) -> list[Layer]:
    """The layers, each with its profile: the library lists those of all profiles together.

    texts: what it says of each. The names of layers and tensors carry "[profile 1]" in any profile but the first; where
    it made all of them up, other layers of the compiled graph ("_myl1_4") tell.
    """
    named = [int(match[1]) if (match := _PROFILE.search(text)) else None for text in texts]
    graphs = [match[1] if (match := _GRAPH.search(layer.name)) else "" for layer in layers]
    of_graph = {graph: profile for graph, profile in zip(graphs, named, strict=True) if profile is not None and graph}
    profiles = [own if own is not None else of_graph.get(graph, 0) for own, graph in zip(named, graphs, strict=True)]
    return [replace(layer, profile=profile) for layer, profile in zip(layers, profiles, strict=True)]


def by_profile(layers: Sequence[Layer], count: int) -> list[list[Layer]]:
    """The layers of every profile of an engine."""
    return [[layer for layer in layers if layer.profile == profile] for profile in range(count)]


def fused_attention(layers: Sequence[Layer]) -> int:
    """How many attentions are one kernel."""
    return sum(layer.is_fused_attention for layer in layers)


def int8_products(layers: Sequence[Layer], products: Collection[str]) -> set[str]:
    """Which of these matrix products, ONNX nodes, are computed from INT8 values."""
    return {
        node
        for layer in layers
        if "int8" in (kind.lower() for kind in layer.inputs)
        for node in layer.nodes
        if node in products
    }


def fusible_attention(steps: Sequence[str]) -> int:
    """How many attentions of a stage feed no score, and so can be one kernel.

    steps: the stage's steps, such as "attend 2". A decision right behind an attention reads its probabilities.
    """
    parsed = [Step.parse(step) for step in steps]
    return sum(
        step.kind == "attend" and following != Step("decide", step.layer)
        for step, following in zip_longest(parsed, parsed[1:])
    )


def _datatype(tensor: dict[str, Any]) -> str:
    for field in ("Datatype", "DataType"):
        if field in tensor:
            return str(tensor[field])
    described = str(tensor.get("Format/Datatype", "unknown"))
    word = _TYPE.search(described)
    return word[0].upper() if word else described
