"""Gate 2 for INT8: every INT8 engine, fed with the reference's own state, is as near to float32 as the simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from engines.artifact import EngineRecord, Gate
from engines.tokenization import Tokens
from pipeline.gates.numeric import Arrays, fill_bucket, walk_states
from pipeline.gates.tolerance import ERROR_RATIO
from pipeline.graph.evaluate import near_tokens, run_module
from pipeline.graph.stages import Stage, StageSpec
from pipeline.model.transformer import PrunedTransformer


@dataclass
class _Found:
    """Squared errors of one stage, summed over its buckets, and what is wrong in all stages."""

    engine: float = 0.0
    simulation: float = 0.0
    worst_ratio: float = 0.0
    checked: int = 0
    decisions: int = 0
    flips: int = 0
    failures: list[str] = field(default_factory=list)


def quantized_parity(
    model: PrunedTransformer,
    simulated: PrunedTransformer,
    specs: Sequence[StageSpec],
    samples: Sequence[Tokens],
    records: Sequence[EngineRecord],
    load: Callable[[EngineRecord], Callable[[Arrays], Arrays]],
    name: str = "numeric: INT8 engines",
) -> Gate:
    """Compares INT8 engines with `simulated`, the model with the same ranges in PyTorch, both against float32.

    For each stage, the root mean square error of the float outputs against `model` (rows at their original positions,
    over all buckets) may be at most twice the simulation's: where two orders of summation fall on either side of a
    level, neither is wrong. A token that the engine decides otherwise than the simulation fails the gate unless its
    score lies within twice of what quantisation moves scores by from the threshold (`near_tokens`): in fp16 so many
    values round to the other of two levels that two right engines differ by a good part of the whole error.

    simulated: in the precision of the graphs.
    """
    found = _Found()
    for spec, states in walk_states(model, specs, samples):
        found.engine = found.simulation = 0.0
        for record in (record for record in records if record.stage == spec.index):
            filled = fill_bucket(states, record.bucket)
            if filled is not None:
                _compare(found, record, Stage(model, spec), Stage(simulated, spec), *filled, load(record))
        if found.simulation > 0:
            ratio = (found.engine / found.simulation) ** 0.5
            found.worst_ratio = max(found.worst_ratio, ratio)
            if not ratio <= ERROR_RATIO:  # also NaN
                found.failures.append(f"{spec.name}: {ratio:.3g} times the error of the simulation")
        elif found.engine > 0:
            found.failures.append(f"{spec.name}: differs from PyTorch, the simulation does not")
    figures: dict[str, float | int | str] = {
        "error_over_simulations": found.worst_ratio,
        "tolerance_of_it": ERROR_RATIO,
        "checked": found.checked,
        "decisions": found.decisions,
        "flips_within_rounding_of_threshold": found.flips,
    }
    if found.failures:
        reason = "; ".join(found.failures[:5])
        return Gate(name=name, status="FAILED", reason=reason, figures=figures)
    if not found.checked:
        return Gate(name=name, status="SKIPPED", reason="no sample fits the bucket of an INT8 engine", figures=figures)
    return Gate(name=name, status="PASSED", figures=figures)


def _compare(
    found: _Found,
    record: EngineRecord,
    stage: Stage,
    simulation: Stage,
    inputs: Arrays,
    real: int,
    engine: Callable[[Arrays], Arrays],
) -> None:
    plain, expected, ours = run_module(stage, inputs), run_module(simulation, inputs), engine(inputs)
    # A sample's rows come first, whether alive or not: its dead first row is carried too.
    rows = [1 + int(alive[1:].sum()) for alive in inputs["alive"][:real]]
    values, alive = stage.output_names[0], "final_alive" if stage.spec.last else "packed_alive"
    a, b, c = (_by_row(outputs, values, rows) for outputs in (plain, expected, ours))
    found.simulation += float(np.square(b - a, dtype=np.float64).sum())
    found.engine += float(np.square(c - a, dtype=np.float64).sum())
    found.checked += 1
    flipped = _by_row(expected, alive, rows) != _by_row(ours, alive, rows)
    close = near_tokens(simulation, stage, inputs)
    near = np.concatenate([sample[:n] for sample, n in zip(close, rows, strict=False)])
    found.decisions += len(flipped)
    found.flips += int((flipped & near).sum())
    away = int((flipped & ~near).sum())
    if away:
        found.failures.append(f"{record.file}: {away} tokens away from the threshold are decided otherwise")


def _by_row(outputs: Arrays, name: str, rows: Sequence[int]) -> np.ndarray:
    """An output of the real samples, one after the other, its rows in the order in which they came in."""
    if outputs[name].ndim == 2 and name == "logits":
        return outputs[name][: len(rows)]
    position = outputs["packed_position" if "packed_position" in outputs else "final_position"]
    order = [np.argsort(sample[:n]) for sample, n in zip(position, rows, strict=False)]
    return np.concatenate([outputs[name][place, index] for place, index in enumerate(order)])
