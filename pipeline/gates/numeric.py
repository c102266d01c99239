"""Gate 2: every stage graph and every engine, fed with the reference's own state, gives what PyTorch gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from engines.backends import Profile
from engines.buckets import Bucket
from engines.errors import GateError
from engines.manifest import EngineRecord, Figures, Gate
from engines.plan import Unit
from engines.stages import OPERATOR
from pipeline.gates.expected import Expected
from pipeline.gates.reference import NOTHING_DECIDED
from pipeline.gates.states import edge_buckets, fill_bucket, holding, random_hidden, walk_states
from pipeline.gates.tolerance import ERROR_RATIO, ERROR_SAMPLES, FP32_TOLERANCE, own_error
from pipeline.gates.under_test import EnginesUnderTest
from pipeline.gates.verdict import verdict
from pipeline.graph.evaluate import Arrays, GraphSession, near_in_fp32, near_tokens, run_module, run_scored
from pipeline.graph.precision import dtype_of
from pipeline.graph.stages import HeadStage, Stage, same_stage


@dataclass
class _Found:
    """Findings of one gate; `comparisons` are those of the stage at hand, until its tolerance is known."""

    worst: float = 0.0
    ratio: float = 0.0
    checked: int = 0
    compared: int = 0
    undecided: int = 0
    failures: list[str] = field(default_factory=list)
    comparisons: list[tuple[str, list[str], dict[str, float]]] = field(default_factory=list)

    def compare(self, where: str, expected: Arrays, actual: Arrays, undecided: np.ndarray) -> None:
        """Compares the first `len(undecided)` samples: integers exactly, floats when `judge` is called."""
        self.checked += 1
        self.undecided += int(undecided.sum())
        self.compared += int((~undecided).sum())
        unequal, differences = [], {}
        for name, (ours, theirs) in _decided(expected, actual, undecided).items():
            if not np.issubdtype(theirs.dtype, np.integer):
                differences[name] = _difference(ours, theirs)
            elif not np.array_equal(ours, theirs):
                unequal.append(f"{name} differs")
        self.comparisons.append((where, unequal, differences))

    def judge(self, tolerance: float) -> None:
        """Fails what differs by more than the tolerance of the stage that was compared since the last call."""
        for where, unequal, differences in self.comparisons:
            worst = max(differences.values(), default=0.0)
            self.worst = max(self.worst, worst)
            self.ratio = max(self.ratio, ERROR_RATIO * worst / tolerance) if tolerance else self.ratio
            beyond = [f"{name} differs by {d:.3g}" for name, d in differences.items() if not d <= tolerance]  # also NaN
            problems = [*unequal, *beyond]
            if problems:
                rest = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
                self.failures.append(f"{where}: {problems[0]}{rest}")
        self.comparisons.clear()

    def gate(self, name: str, narrow: bool) -> Gate:
        """The gate of these findings."""
        figures: Figures = {"largest_difference": self.worst}
        if narrow:
            figures |= {"error_over_pytorchs": self.ratio, "tolerance_of_it": ERROR_RATIO}
        else:
            figures |= {"tolerance": FP32_TOLERANCE}
        figures |= {"checked": self.checked, "within_rounding_of_threshold": self.undecided}
        return verdict(name, figures, self.failures, None if self.compared else NOTHING_DECIDED)


def numeric_parity(expected: Expected, engines: EnginesUnderTest) -> list[Gate]:
    """One gate for the graphs (ONNX Runtime) and one for the engines. The reason names the stages.

    Every profile is asked, with the first rows of a sample where none is short enough; a graph, whose shapes are
    symbolic, in the shortest and the longest bucket of a batch size. In a narrower precision a stage's error against
    fp32 may be at most twice PyTorch's own, the largest over all buckets and some more samples.
    """
    comparison = _Comparison(expected, engines)
    plan = engines.manifest.plan
    for spec, states in walk_states(expected.model, expected.specs, expected.samples):
        stage = Stage(expected.model, spec)
        comparison.graphs.failures += _wrong_attributes(engines.graph(spec.index), stage)
        batches = [_Batch(bucket, *fill_bucket(states, bucket)) for bucket in plan.buckets_of(spec.index)]
        if expected.narrow is not None:
            some = states[:ERROR_SAMPLES]
            batches.append(_Batch(None, *fill_bucket(some, holding(some))))
        comparison.check(stage, spec.index, batches)
    if plan.head_graph:
        inputs = random_hidden(plan.buckets_of("head"), engines.manifest.encoder.hidden_size)
        comparison.check(HeadStage(expected.model), "head", [_Batch(b, hidden, b.batch) for b, hidden in inputs])
    return comparison.gates()


@dataclass(frozen=True)
class _Batch:
    """A stage's inputs, of which the first `real` samples are compared; without a bucket only PyTorch's error is."""

    bucket: Bucket | None
    inputs: Arrays
    real: int


class _Comparison:
    """What is found of the graphs and of the engines, stage after stage."""

    def __init__(self, expected: Expected, engines: EnginesUnderTest) -> None:
        self.graphs, self._found = _Found(), _Found()
        self._narrow, self._engines, self._cannot_run = expected.narrow, engines, engines.cannot_run
        self._records: dict[tuple[Unit, Bucket], EngineRecord] = {}
        if engines.cannot_run is None:  # INT8 engines are compared with their own simulation, in quantized.py
            wide = [record for record in engines.records if record.precision != "int8"]
            self._records = {(record.stage, bucket): record for record in wide for bucket in record.profiles}
            self._cannot_run = None if self._records else "every engine is in INT8"

    def check(self, stage: Stage | HeadStage, unit: Unit, batches: Sequence[_Batch]) -> None:
        """Compares a unit's graph and engines with PyTorch."""
        counterpart = None if self._narrow is None else same_stage(self._narrow, stage)
        path = self._engines.graph(unit)
        graph, error = _session(path), 0.0
        edges = edge_buckets([batch.bucket for batch in batches if batch.bucket is not None])
        for batch in batches:
            expected, rounded, undecided = _expected(stage, counterpart, batch.inputs)
            undecided = undecided[: batch.real]
            if counterpart is not None:
                both = _decided(expected, rounded, undecided).values()
                error = max(error, own_error(dtype_of(counterpart), both))
            if batch.bucket is None:
                continue
            if batch.bucket in edges:
                self.graphs.compare(f"{path.name} at {batch.bucket}", expected, graph(batch.inputs), undecided)
            record = self._records.get((unit, batch.bucket))
            if record is not None:
                found = _run_profile(self._engines.load(record).profile(batch.bucket), batch.inputs)
                self._found.compare(f"{record.file} {batch.bucket}", expected, found, undecided)
        for gate in (self.graphs, self._found):
            gate.judge(FP32_TOLERANCE if self._narrow is None else ERROR_RATIO * error)

    def gates(self) -> list[Gate]:
        """The gate of the graphs and that of the engines."""
        name, narrowed = f"numeric: engines ({self._engines.backend.target})", self._narrow is not None
        graphs = self.graphs.gate("numeric: graphs", narrowed)
        if self._cannot_run is not None:
            return [graphs, Gate(name=name, status="SKIPPED", reason=self._cannot_run)]
        return [graphs, self._found.gate(name, narrowed)]


def _expected(
    stage: Stage | HeadStage, narrow: Stage | HeadStage | None, inputs: Arrays
) -> tuple[Arrays, Arrays, np.ndarray]:
    """What PyTorch computes in fp32 and in `narrow` (without one, fp32 again), and [B] bool: samples with a score
    within rounding of a threshold, whose decision may fall either way."""
    if isinstance(stage, HeadStage):
        expected = run_module(stage, inputs)
        rounded = expected if narrow is None else run_module(narrow, inputs)
        return expected, rounded, np.zeros(len(inputs["hidden"]), bool)
    shape = inputs["alive"].shape
    expected, decisions = run_scored(stage, inputs)
    if not isinstance(narrow, Stage):
        return expected, expected, near_in_fp32(decisions, shape[0])
    rounded, others = run_scored(narrow, inputs)
    return expected, rounded, np.any(near_tokens(decisions, others, shape), axis=1)


def _decided(expected: Arrays, actual: Arrays, undecided: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By output, what was found and what was expected for the samples that can be compared; {} if there are none."""
    chosen = np.flatnonzero(~undecided)
    if not len(chosen):
        return {}
    return {name: (np.asarray(actual[name])[chosen], value[chosen]) for name, value in expected.items()}


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max())


def _run_profile(profile: Profile, inputs: Arrays) -> Arrays:
    """Outputs with floats in float32, which is what engines in bf16 give anyway."""
    return {n: v.astype(np.float32) if v.dtype == np.float16 else v for n, v in profile(inputs).items()}


def _wrong_attributes(path: Path, stage: Stage) -> list[str]:
    """The operator's attributes must be the model's, the threshold to the bit, whether or not a sample shows it.

    GateError for a file that is not an ONNX graph.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (DecodeError, OSError) as error:
        raise GateError(f"{path.name}: expected an ONNX graph, found {error}") from None
    nodes = [node for node in graph.node if node.op_type == OPERATOR]
    if len(nodes) != (0 if stage.spec.last else 1):
        return [f"{path.name}: holds {len(nodes)} {OPERATOR}; every stage ends with one, but the last"]
    if stage.spec.last:
        return []
    found = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
    found = {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}
    return [
        f"{path.name}: {name} is {found.get(name, 'missing')}, the model's is {expected}"
        for name, expected in stage.compact_attributes.items()
        if found.get(name) != expected
    ]


def _session(path: Path) -> GraphSession:
    try:
        return GraphSession(path)
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise GateError(f"{path.name}: ONNX Runtime cannot load it: {error}") from None
