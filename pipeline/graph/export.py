"""Stages to ONNX: traced by torch.export, symbolic in batch and length, checked at shapes that were not traced.

Every linear layer on [B, S, D] is a MatMul with a constant [in, out] and an Add of the bias. All nodes carry the module
that they came from in their metadata: the last but one of `pkg.torch.onnx.name_scopes`, as `model.attention.3.query`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import torch
from torch import Tensor

from engines.errors import GateError, InputError
from engines.stages import DOMAIN, OPERATOR, POOLED
from pipeline.graph.evaluate import GraphSession, near_threshold, run_module
from pipeline.graph.function import OPSET, VERSION, token_compact_function
from pipeline.graph.precision import Precision, as_taken, reference_in
from pipeline.graph.stages import HeadStage, Stage
from pipeline.model.config import CheckpointConfig

_TRACED_SHAPE = (2, 24)
_CHECKED_SHAPES = ((1, 7), (3, 40), (2, 16))
"""Lengths are limited by the encoder's position table."""
_TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 3e-2, "bf16": 2.5e-1}
"""Allowed difference, relative to max(1, value). In fp16 and bf16 it is about thirty roundings."""


class Export(Protocol):
    """Writes the graph of a stage: `export_stage`, or a function that replaces it."""

    def __call__(
        self, stage: Stage | HeadStage, config: CheckpointConfig, path: Path, precision: Precision = "fp32", /
    ) -> None: ...


def export_stage(stage: Stage | HeadStage, config: CheckpointConfig, path: Path, precision: Precision = "fp32") -> None:
    """Writes the graph of a stage, which is given in float32, in a precision, and checks it.

    `hidden` and `packed` have the precision, score and logits are float32, everything else is int32. Raises GateError
    if the graph contains a constant of the trace, InputError for weights that are not finite or exceed the precision.
    """
    narrow = reference_in(stage, precision)
    example = as_taken(narrow, stage.input_names, example_inputs(stage, config, *_within(config, _TRACED_SHAPE)))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2)
    dynamic = tuple({0: batch} if name == POOLED else {0: batch, 1: length} for name in stage.input_names)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            narrow.eval(),
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
    if any(node.domain == DOMAIN and node.op_type == OPERATOR for node in model.graph.node):
        del model.functions[:]
        model.functions.append(token_compact_function())
        if all(entry.domain != DOMAIN for entry in model.opset_import):
            model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    check_symbolic(stage, narrow, config, path, _TOLERANCES[precision])


def example_inputs(stage: Stage | HeadStage, config: CheckpointConfig, batch: int, length: int) -> tuple[Tensor, ...]:
    """Returns random inputs of a shape: real tokens first, then padding; at least one sample has no padding."""
    generator = torch.Generator().manual_seed(length)
    hidden = torch.randn(batch, length, config.encoder.hidden_size, generator=generator)
    if isinstance(stage, HeadStage):
        return (hidden,)
    real = torch.linspace(length, max(1, length // 2), batch).round().int()
    alive = (torch.arange(length)[None, :] < real[:, None]).int()
    if stage.spec.index == 0:
        ids = torch.randint(config.encoder.vocab_size, (batch, length), generator=generator, dtype=torch.int32)
        return ids, torch.zeros_like(ids), alive
    position = torch.arange(length, dtype=torch.int32).expand(batch, -1).contiguous()
    if not stage.pools:
        return hidden, alive, position
    pooled = torch.randn(batch, config.encoder.hidden_size + 1, generator=generator)
    pooled[:, -1] = 1 / real
    return hidden, alive, position, pooled


def check_symbolic(
    stage: Stage | HeadStage, narrow: Stage | HeadStage, config: CheckpointConfig, path: Path, tolerance: float
) -> None:
    """Compares the graph of `narrow` with PyTorch at several shapes.

    Where rounding may change a decision, only shapes are compared. Raises GateError that names the first difference,
    and InputError if PyTorch's own values are not finite.
    """
    session = GraphSession(path)
    for shape in _CHECKED_SHAPES:
        batch, length = _within(config, shape)
        values = example_inputs(stage, config, batch, length)
        inputs = {name: value.numpy() for name, value in zip(stage.input_names, values, strict=True)}
        expected = run_module(narrow, inputs)
        decided = np.ones(batch, bool)
        if isinstance(stage, Stage) and isinstance(narrow, Stage):
            decided = ~near_threshold(stage, narrow, inputs)
        try:
            actual = session(inputs)
        except Exception as error:  # ONNX Runtime raises its own kinds, which name the node
            raise GateError(f"{path.name}: the graph does not run at batch {batch}, length {length}: {error}") from None
        for name, theirs in expected.items():
            if not np.isfinite(theirs).all():
                raise InputError(f"{path.name}: output {name!r} of PyTorch itself: {_not_finite(stage, inputs, name)}")
            problem = _difference(actual[name], theirs, decided, tolerance)
            if problem is not None:
                raise GateError(
                    f"{path.name}: output {name!r} at batch {batch}, length {length}: {problem}; a constant of "
                    "the trace was baked in"
                )


def _not_finite(stage: Stage | HeadStage, inputs: Mapping[str, np.ndarray], name: str) -> str:
    """Why an output is not finite in the graph's precision, and what to do: `stage` is the same in float32."""
    wide = run_module(stage, inputs)[name]
    if not np.isfinite(wide).all():
        return "expected finite values, found NaN or infinity; build from a checkpoint whose weights are finite"
    return (
        f"expected finite values, found NaN or infinity where float32 has values up to {np.abs(wide).max():.3g}: the "
        "states of this model exceed what fp16 holds (65504); build with --precision bf16 or fp32"
    )


def _difference(ours: np.ndarray, theirs: np.ndarray, decided: np.ndarray, tolerance: float) -> str | None:
    if ours.shape != theirs.shape:
        return f"expected shape {list(theirs.shape)}, found {list(ours.shape)}"
    wanted = theirs[decided].astype(np.float64)
    worst = float((np.abs(ours[decided] - wanted) / np.maximum(1, np.abs(wanted))).max(initial=0))
    if worst <= (tolerance if np.issubdtype(theirs.dtype, np.floating) else 0):
        return None
    return f"expected PyTorch's values within {tolerance}, found a difference of {worst:.3g}"


def _within(config: CheckpointConfig, shape: tuple[int, int]) -> tuple[int, int]:
    batch, length = shape
    return batch, min(length, config.encoder.longest_input)
