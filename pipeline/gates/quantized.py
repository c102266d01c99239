"""Gate 2 for INT8: an INT8 engine, fed with the reference's own state, is as near to float32 as the simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from calib.int8.calibrate import read_calibration
from calib.int8.simulation import simulate
from engines.buckets import Bucket
from engines.manifest import EngineRecord, Figures, Gate
from pipeline.gates.expected import Expected
from pipeline.gates.states import cut, fed_to, rows_of, stack_states, walk_states
from pipeline.gates.tolerance import ERROR_RATIO
from pipeline.gates.under_test import EnginesUnderTest
from pipeline.gates.verdict import verdict
from pipeline.graph.evaluate import Arrays, GraphSession, near_tokens, run_scored
from pipeline.graph.stages import Stage
from pipeline.model.transformer import PrunedTransformer


@dataclass
class _Tally:
    """Squared errors of one stage, summed over its buckets, and what is wrong in all stages."""

    engine: float = 0.0
    simulation: float = 0.0
    worst_ratio: float = 0.0
    checked: int = 0
    decisions: int = 0
    flips: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Answer:
    """What PyTorch gives for one sample of a stage, its rows in the order in which they come in.

    plain: the float output in float32; error: the simulation's squared error against it; alive: what the simulation
    decides; near: rows that may be decided otherwise.
    """

    plain: np.ndarray
    error: float
    alive: np.ndarray
    near: np.ndarray


_BATCH = 8
"""Samples that PyTorch computes at once."""


Asked = Callable[[EngineRecord, Bucket], Callable[[Arrays], Arrays]]
"""Gives what computes a record's stage for a bucket: its engine's profile, or its graph."""


def quantized_parity(
    expected: Expected,
    simulated: PrunedTransformer,
    records: Sequence[EngineRecord],
    load: Asked,
    name: str = "numeric: INT8 engines",
) -> Gate:
    """Compares INT8 engines with `simulated`, the model with the same ranges in PyTorch, both against float32.

    For each stage, the root mean square error of the float outputs against the model (rows at their original positions,
    over all buckets) may be at most twice the simulation's: where two orders of summation fall on either side of a
    level, neither is wrong. A token that the engine decides otherwise than the simulation fails the gate unless its
    score lies within twice of what quantisation moves scores by from the threshold (`near_tokens`): in fp16 so many
    values round to the other of two levels that two right engines differ by a good part of the whole error.

    simulated: in the precision of the graphs.
    """
    model = expected.model
    tally = _Tally()
    for spec, states in walk_states(model, expected.specs, expected.samples):
        tally.engine = tally.simulation = 0.0
        stage, simulation = Stage(model, spec), Stage(simulated, spec)
        own = [record for record in records if record.stage == spec.index]
        batches = [(record, bucket, fed_to(states, bucket)) for record in own for bucket in record.profiles]
        # Results do not depend on the bucket, so one run in PyTorch does for all that a sample is put in.
        wanted = sorted({sample for *_, fed in batches for sample in fed}, key=lambda sample: sample[1])
        inputs = {(index, rows): cut(states[index], rows) for index, rows in wanted}
        answers = dict(zip(inputs, _answers(stage, simulation, list(inputs.values())), strict=True))
        for record, bucket, fed in batches:
            outputs = load(record, bucket)(stack_states([inputs[sample] for sample in fed], bucket))
            _compare(tally, f"{record.file} {bucket}", stage, [answers[sample] for sample in fed], outputs)
        if tally.simulation > 0:
            ratio = (tally.engine / tally.simulation) ** 0.5
            tally.worst_ratio = max(tally.worst_ratio, ratio)
            if not ratio <= ERROR_RATIO:  # also NaN
                tally.failures.append(f"{spec.name}: {ratio:.3g} times the error of the simulation")
        elif tally.engine > 0:
            tally.failures.append(f"{spec.name}: differs from PyTorch, the simulation does not")
    figures: Figures = {
        "error_over_simulations": tally.worst_ratio,
        "tolerance_of_it": ERROR_RATIO,
        "checked": tally.checked,
        "decisions": tally.decisions,
        "flips_within_rounding_of_threshold": tally.flips,
    }
    return verdict(name, figures, tally.failures, None if tally.checked else "there is no engine in INT8")


def _answers(stage: Stage, simulation: Stage, states: Sequence[Arrays]) -> Iterator[_Answer]:
    """The answer for every state; those that follow each other should be of like length."""
    for start in range(0, len(states), _BATCH):
        yield from _answers_at_once(stage, simulation, states[start : start + _BATCH])


def _answers_at_once(stage: Stage, simulation: Stage, states: Sequence[Arrays]) -> list[_Answer]:
    rows = rows_of(states)
    inputs = stack_states(states, Bucket(batch=len(rows), length=max(rows)))
    plain, decisions = run_scored(stage, inputs)
    simulated, others = run_scored(simulation, inputs)
    near = near_tokens(others, decisions, inputs["alive"].shape)
    values, alive = _compared(stage)
    exact, moved = _by_sample(plain, values, rows), _by_sample(simulated, values, rows)
    return [
        _Answer(exact[n], _squared(moved[n], exact[n]), decided, near[n, : rows[n]])
        for n, decided in enumerate(_by_sample(simulated, alive, rows))
    ]


def _compare(tally: _Tally, name: str, stage: Stage, expected: Sequence[_Answer], outputs: Arrays) -> None:
    values, alive = _compared(stage)
    rows = [len(sample.near) for sample in expected]
    found, decided = _by_sample(outputs, values, rows), _by_sample(outputs, alive, rows)
    tally.simulation += sum(sample.error for sample in expected)
    tally.engine += sum(_squared(ours, sample.plain) for ours, sample in zip(found, expected, strict=True))
    tally.checked += 1
    flipped = np.concatenate([sample.alive for sample in expected]) != np.concatenate(decided)
    near = np.concatenate([sample.near for sample in expected])
    tally.decisions += len(flipped)
    tally.flips += int((flipped & near).sum())
    away = int((flipped & ~near).sum())
    if away:
        tally.failures.append(f"{name}: {away} tokens away from the threshold are decided otherwise")


def _squared(ours: np.ndarray, exact: np.ndarray) -> float:
    return float(np.square(ours - exact, dtype=np.float64).sum())


def _compared(stage: Stage) -> tuple[str, str]:
    """The float output, and that of the tokens' state behind the last decision."""
    return stage.output_names[0], "final_alive" if stage.spec.last else "packed_alive"


def _by_sample(outputs: Arrays, name: str, rows: Sequence[int]) -> list[np.ndarray]:
    """An output of the real samples, its rows in the order in which they came in."""
    if outputs[name].ndim == 2 and name == "logits":
        return list(outputs[name][: len(rows)])
    position = outputs["packed_position" if "packed_position" in outputs else "final_position"]
    order = [np.argsort(sample[:n]) for sample, n in zip(position, rows, strict=False)]
    return [outputs[name][row, index] for row, index in enumerate(order)]


def int8_parity(expected: Expected, engines: EnginesUnderTest) -> list[Gate]:
    """Gate 2 of the INT8 engines or, where this machine cannot run them, of their graphs in ONNX Runtime."""
    records = [record for record in engines.records if record.precision == "int8"]
    if not records:
        return []
    simulated = simulated_model(expected, engines.folder)
    if engines.cannot_run is None:
        return [quantized_parity(expected, simulated, records, lambda record, b: engines.load(record).profile(b))]
    session = cache(GraphSession)

    def graph_of(record: EngineRecord, bucket: Bucket) -> GraphSession:
        quantised = None if record.stage == "head" else engines.manifest.plan.stages[record.stage].int8_graph
        return session(engines.graph(record.stage) if quantised is None else engines.folder / quantised)

    gate = quantized_parity(expected, simulated, records, graph_of, "numeric: INT8 graphs")
    return [gate, *engines.skipped(f"numeric: INT8 engines ({engines.backend.target})")]


def simulated_model(expected: Expected, folder: Path) -> PrunedTransformer:
    """What PyTorch computes with the ranges of the artifact in `folder`."""
    return simulate(expected.narrow or expected.model, read_calibration(folder).scheme)
