"""Stages as exported programs of PyTorch, symbolic in batch and length, which AOTInductor compiles."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from engines.backends.base import program_file
from engines.backends.torch_compiler import NAMES
from engines.stages import POOLED
from pipeline.graph.export import example_inputs
from pipeline.graph.precision import Precision, as_taken, reference_in
from pipeline.graph.stages import HeadStage, Stage
from pipeline.model.config import CheckpointConfig
from pipeline.model.transformer import State
from plugins.token_compact.operator import compacted, token_compact

_TRACED_SHAPE = (2, 24)


def write_program(
    stage: Stage | HeadStage, config: CheckpointConfig, graph: Path, precision: Precision, operator: bool = False
) -> None:
    """Writes the program of a stage, given in float32, beside its graph (`program_file`), in a precision.

    operator: its compaction is `skimrt::token_compact`, for a kernel; else the function body, so that whoever compiles
              it needs nothing of this project.
    """
    narrow = reference_in(stage, precision).eval()
    batch, length = _TRACED_SHAPE[0], min(_TRACED_SHAPE[1], config.encoder.longest_input)
    example = as_taken(narrow, stage.input_names, example_inputs(stage, config, batch, length))
    sizes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1)}
    dynamic = tuple({0: sizes[0]} if name == POOLED else sizes for name in stage.input_names)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecations
        program = torch.export.export(_Traced(narrow, operator), example, dynamic_shapes=(dynamic,))
    names = {"inputs": stage.input_names, "outputs": stage.output_names}
    torch.export.save(program, program_file(graph), extra_files={NAMES: json.dumps(names)})


class StageOfOperator(Stage):
    """A stage whose compaction stays the operator when traced; the ONNX exporter needs a node of its own instead."""

    def _compact(self, score: Tensor, state: State) -> tuple[Tensor, ...]:
        return token_compact(state.hidden, score, state.alive, state.position, *self._attributes)

    @property
    def _attributes(self) -> tuple[float, int, bool]:
        found = self.compact_attributes
        return found["threshold"], found["capacity"], bool(found["protect_first"])


class _StageOfBody(StageOfOperator):
    """A stage whose compaction is traced as the standard operators that it is made of."""

    def _compact(self, score: Tensor, state: State) -> tuple[Tensor, ...]:
        return compacted(state.hidden, score, state.alive, state.position, *self._attributes)


class _Traced(nn.Module):
    """A stage that returns a tuple, and copies of what it was given."""

    def __init__(self, stage: Stage | HeadStage, operator: bool) -> None:
        super().__init__()
        kind = StageOfOperator if operator else _StageOfBody
        self.stage = stage if isinstance(stage, HeadStage) else kind(stage.model, stage.spec)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Takes and returns what the stage does."""
        found = self.stage(*inputs)
        outputs = found if isinstance(found, tuple) else (found,)
        return tuple(value.clone() if any(value is given for given in inputs) else value for value in outputs)
