"""Runs a stage on arrays, in PyTorch or as an ONNX graph. Floats are float32 outside, whatever the precision inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from engines.backends.onnxruntime import session_options
from engines.quiet import onnxruntime_package
from pipeline.graph.precision import as_taken
from pipeline.graph.stages import Decision, HeadStage, Stage
from pipeline.model.rounding import STAGE, moved_near, scale

Arrays = dict[str, np.ndarray]
_NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@torch.no_grad()
def run_module(stage: Stage | HeadStage, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """A stage's outputs by name, in the precision that its module is in."""
    found = stage(*to_tensors(stage, inputs))
    return _arrays(stage, found if isinstance(found, tuple) else (found,))


@torch.no_grad()
def run_scored(stage: Stage, inputs: Mapping[str, np.ndarray]) -> tuple[Arrays, list[Decision]]:
    """Returns the outputs of `run_module` and the decisions on the way."""
    outputs, decisions = stage.scored(*to_tensors(stage, inputs))
    return _arrays(stage, outputs), decisions


class GraphSession:
    """A stage's graph in ONNX Runtime, rounded to the graph's precision where the graph rounds.

    Errors of ONNX Runtime pass through; they name the node.
    """

    def __init__(self, path: Path) -> None:
        onnxruntime = onnxruntime_package()

        model = round_explicitly(onnx.load(path))
        content = model.SerializeToString()
        self._session = onnxruntime.InferenceSession(content, session_options(), providers=["CPUExecutionProvider"])

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Outputs by name."""
        names = [value.name for value in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))


def round_explicitly(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a float32 model that computes every fp16 or bf16 tensor of `model` in float32 and then rounds it.

    Returns `model` itself if it has none. ONNX Runtime has few CPU kernels for fp16 and almost none for bf16. By itself
    it runs fp16 graphs in float32 and drops the roundings between operators, which would hide both error and overflow.
    """
    wide = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(model), strict_mode=True)
    graph = wide.graph
    narrow: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.elem_type in _NARROW:
            narrow[value.name] = kind.elem_type
            kind.elem_type = TensorProto.FLOAT
    if not narrow:
        return model
    for tensor in graph.initializer:
        if tensor.data_type in _NARROW:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))

    nodes, inputs = [], {}
    for value in graph.input:
        if value.name in narrow:
            inputs[value.name] = f"{value.name}.rounded"
            nodes += _rounding(value.name, inputs[value.name], narrow[value.name])
    for node in graph.node:
        node.input[:] = [inputs.get(name, name) for name in node.input]
        if node.op_type == "Cast" and node.output[0] in narrow:
            node.attribute[0].i = TensorProto.FLOAT
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in narrow:
                node.output[index] = f"{name}.wide"
                nodes += _rounding(f"{name}.wide", name, narrow[name])
    rounded = onnx.GraphProto()
    rounded.CopyFrom(graph)
    del rounded.node[:]
    rounded.node.extend(nodes)
    graph.CopyFrom(rounded)
    return wide


def near_threshold(stage: Stage, rounded: Stage, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """[B] bool: samples with a token near a threshold, see `near_tokens`; `near_in_fp32` where both are the same."""
    if not any(step.kind == "decide" for step in stage.spec.steps):
        return np.zeros(len(inputs["alive"]), bool)
    if rounded is stage:
        return near_in_fp32(run_scored(stage, inputs)[1], len(inputs["alive"]))
    decisions, others = (run_scored(module, inputs)[1] for module in (stage, rounded))
    return np.any(near_tokens(decisions, others, inputs["alive"].shape), axis=1)


def near_in_fp32(decisions: Sequence[Decision], samples: int) -> np.ndarray:
    """[B] bool: samples with a score so near a threshold that another library may decide otherwise."""
    near = torch.zeros(samples, dtype=torch.bool)
    for score, alive, threshold in decisions:
        living = torch.where(alive > 0, score, torch.nan)
        near |= ((living - threshold).abs() <= STAGE * scale(living)).any(-1)
    return near.numpy()


def near_tokens(decisions: Sequence[Decision], rounded: Sequence[Decision], shape: tuple[int, ...]) -> np.ndarray:
    """[B, S] bool: tokens with a score so near a threshold that rounding as in `rounded` may decide otherwise.

    decisions, rounded: of one stage on the same inputs, from two PyTorch modules; shape: [B, S] of these inputs.
    Near is what `moved_near` allows.
    """
    near = torch.zeros(shape, dtype=torch.bool)
    for (score, alive, threshold), (other, *_) in zip(decisions, rounded, strict=True):
        living = torch.where(alive > 0, score, torch.nan)
        near |= (living - threshold).abs() <= moved_near(living, other, threshold)
    return near.numpy()


def _arrays(stage: Stage | HeadStage, values: Sequence[Tensor]) -> Arrays:
    """Outputs by name, floats in float32."""
    return {
        name: (value.float() if value.is_floating_point() else value).numpy()
        for name, value in zip(stage.output_names, values, strict=True)
    }


def to_tensors(stage: Stage | HeadStage, inputs: Mapping[str, np.ndarray]) -> list[Tensor]:
    """A stage's inputs in the order and in the types that its module takes."""
    return list(as_taken(stage, stage.input_names, [torch.from_numpy(inputs[name]) for name in stage.input_names]))


def _rounding(source: str, target: str, precision: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [source], [f"{target}.narrow"], to=precision),
        helper.make_node("Cast", [f"{target}.narrow"], [target], to=TensorProto.FLOAT),
    ]
