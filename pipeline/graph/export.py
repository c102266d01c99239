"""Stages to ONNX: traced by torch.export, symbolic in batch and length, checked at shapes that were not traced."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from engines.errors import GateError
from pipeline.graph.function import OPSET, VERSION, token_compact_function
from pipeline.graph.operator import DOMAIN, NAME
from pipeline.graph.stages import HeadStage, Stage
from pipeline.model.config import CheckpointConfig

_TRACED_SHAPE = (2, 24)
_CHECKED_SHAPES = ((1, 7), (3, 40), (2, 16))
"""Lengths are cut to what the encoder's position table covers."""
_TOLERANCE = 1e-4


def export_stage(stage: Stage | HeadStage, config: CheckpointConfig, path: Path) -> None:
    """Writes the stage's graph and checks it. Raises GateError when the graph has baked in a constant of the trace."""
    example = example_inputs(stage, config, *_within(config, _TRACED_SHAPE))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2)
    dynamic = tuple({0: batch, 1: length} for _ in example)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            stage.eval(),
            example,
            dynamo=True,
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            input_names=list(stage.input_names),
            output_names=list(stage.output_names),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    if any(node.domain == DOMAIN and node.op_type == NAME for node in model.graph.node):
        del model.functions[:]
        model.functions.append(token_compact_function())
        if all(entry.domain != DOMAIN for entry in model.opset_import):
            model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    check_symbolic(stage, config, path)


def example_inputs(stage: Stage | HeadStage, config: CheckpointConfig, batch: int, length: int) -> tuple[Tensor, ...]:
    """Random inputs of a shape: real tokens in front, padding behind, at least one sample without padding."""
    generator = torch.Generator().manual_seed(length)
    hidden = torch.randn(batch, length, config.encoder.hidden_size, generator=generator)
    if isinstance(stage, HeadStage):
        return (hidden,)
    real = torch.linspace(length, max(1, length // 2), batch).round().int()
    alive = (torch.arange(length)[None, :] < real[:, None]).int()
    if stage.spec.index == 0:
        ids = torch.randint(config.encoder.vocab_size, (batch, length), generator=generator, dtype=torch.int32)
        return ids, torch.zeros_like(ids), alive
    return hidden, alive, torch.arange(length, dtype=torch.int32).expand(batch, -1).contiguous()


def check_symbolic(stage: Stage | HeadStage, config: CheckpointConfig, path: Path) -> None:
    """Runs the graph in ONNX Runtime at several shapes against PyTorch; GateError names the first difference."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in _CHECKED_SHAPES:
        batch, length = _within(config, shape)
        inputs = example_inputs(stage, config, batch, length)
        with torch.no_grad():
            found = stage(*inputs)
        expected = found if isinstance(found, tuple) else (found,)
        feed = {name: value.numpy() for name, value in zip(stage.input_names, inputs, strict=True)}
        try:
            actual = session.run(list(stage.output_names), feed)
        except Exception as error:  # ONNX Runtime raises its own kinds, which name the node
            raise GateError(f"{path.name}: the graph does not run at batch {batch}, length {length}: {error}") from None
        for name, ours, theirs in zip(stage.output_names, actual, expected, strict=True):
            problem = _difference(ours, theirs.numpy())
            if problem is not None:
                raise GateError(
                    f"{path.name}: output {name!r} at batch {batch}, length {length}: {problem}; a constant of "
                    "the trace was baked in"
                )


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str | None:
    if ours.shape != theirs.shape:
        return f"expected shape {list(theirs.shape)}, found {list(ours.shape)}"
    worst = float(np.abs(ours.astype(np.float64) - theirs).max())
    if worst <= _TOLERANCE:
        return None
    return f"expected PyTorch's values within {_TOLERANCE}, found a difference of {worst:.3g}"


def _within(config: CheckpointConfig, shape: tuple[int, int]) -> tuple[int, int]:
    batch, length = shape
    return batch, min(length, config.encoder.longest_input)
