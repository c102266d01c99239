"""All stages of a model as one graph: each takes what the one before it has packed, with no host between them.

The stage graphs are joined as they are, so that what was checked of them holds of the whole. How many rows go on from
one to the next, the capacity of each TokenCompact, is set for a bucket when the graph is made static for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from engines.stages import CARRIED, DOMAIN, FIRST_INPUTS, LATER_INPUTS, OPERATOR, fused_outputs
from pipeline.graph.function import OPSET, VERSION, token_compact_function

_DEAD = "dead_position"


def fuse_graphs(stages: Sequence[Path], out: Path) -> None:
    """Writes the graph of the stages `stages`, in their order and in one precision, to `out`.

    It takes the inputs of the first stage and returns `engines.stages.fused_outputs`. Batch and length are symbolic.
    """
    models = [onnx.load(stage) for stage in stages]
    nodes, weights = [], [helper.make_tensor(_DEAD, TensorProto.INT32, [], [-1])]
    for index, model in enumerate(models):
        last = index == len(models) - 1
        names = {name: name for name in FIRST_INPUTS}
        if index:
            names = {ours: f"stage_{index - 1}.{theirs}" for ours, theirs in CARRIED.items()}
        names |= {"logits": "logits"} if last else {"count": f"count.{index}"}
        _prefix(model.graph, f"stage_{index}.", names)
        nodes += [*model.graph.node, *_survivors(index, "final" if last else "packed")]
        weights += model.graph.initializer
    cuts = len(models) - 1
    shapes = {"logits": (TensorProto.FLOAT, ["batch", "classes"])}
    shapes |= {f"survivors.{stage}": (TensorProto.INT32, ["batch", f"rows_{stage}"]) for stage in range(cuts + 1)}
    shapes |= {f"count.{cut}": (TensorProto.INT32, ["batch"]) for cut in range(cuts)}
    outputs = [helper.make_tensor_value_info(name, *shapes[name]) for name in fused_outputs(cuts)]
    graph = helper.make_graph(nodes, "fused", list(models[0].graph.input), outputs, weights)
    fused = helper.make_model(graph, opset_imports=models[0].opset_import, ir_version=models[0].ir_version)
    fused.functions.extend(models[0].functions)
    onnx.checker.check_model(fused, full_check=True)
    onnx.save(fused, out)


def _prefix(graph: onnx.GraphProto, prefix: str, names: Mapping[str, str]) -> None:
    """Renames every value of a stage's graph: those of `names` to theirs, the others by a prefix."""

    def new(name: str) -> str:
        return names.get(name, f"{prefix}{name}") if name else name  # "" is an input that is left out

    for node in graph.node:
        assert not any(attribute.HasField("g") for attribute in node.attribute), "stage graphs have no branches"
        node.name = f"{prefix}{node.name}"
        node.input[:] = map(new, node.input)
        node.output[:] = map(new, node.output)
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)


def _survivors(stage: int, kind: str) -> list[onnx.NodeProto]:
    """The positions of the rows that are alive where a stage ends, `kind` of rows it leaves, and -1 for the others."""
    alive, position = f"stage_{stage}.{kind}_alive", f"stage_{stage}.{kind}_position"
    living = f"stage_{stage}.living"
    return [
        helper.make_node("Cast", [alive], [living], to=TensorProto.BOOL),
        helper.make_node("Where", [living, position, _DEAD], [f"survivors.{stage}"]),
    ]


def chain_compactions(count: int, width: int, out: Path) -> None:
    """Writes a graph of nothing but `count` TokenCompact, one after the other, on rows of `width`; to time them."""
    shapes = {"hidden": ["batch", "length", width], "alive": ["batch", "length"], "position": ["batch", "length"]}
    types = {"hidden": TensorProto.FLOAT, "alive": TensorProto.INT32, "position": TensorProto.INT32}
    inputs = [helper.make_tensor_value_info(name, types[name], shapes[name]) for name in LATER_INPUTS]
    outputs = [helper.make_tensor_value_info(theirs, types[ours], shapes[ours]) for ours, theirs in CARRIED.items()] + [
        helper.make_tensor_value_info("count", TensorProto.INT32, ["batch"])
    ]
    nodes, held = [helper.make_node("ReduceMax", ["hidden", "last_axis"], ["score"], keepdims=0)], list(LATER_INPUTS)
    for step in range(count):
        names = [*CARRIED.values(), "count"]
        left = names if step == count - 1 else [f"{name}_{step}" for name in names]
        taken = [held[0], "score", *held[1:]]
        attributes = {"threshold": 0.0, "capacity": 0, "protect_first": 1}
        nodes.append(helper.make_node(OPERATOR, taken, left, domain=DOMAIN, **attributes))
        held = left[:3]
    axis = helper.make_tensor("last_axis", TensorProto.INT64, [1], [-1])
    graph = helper.make_graph(nodes, "compactions", inputs, outputs, [axis])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[token_compact_function()], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, out)
