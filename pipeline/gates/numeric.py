"""Gate 2: every stage graph and every engine, fed with the reference's own state, gives what PyTorch gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from engines.artifact import EngineRecord, Figures, Gate, Manifest
from engines.backends import Backend, Engine, records_for
from engines.buckets import Bucket
from engines.errors import GateError, InputError
from engines.stages import OPERATOR
from engines.tokenization import Tokens
from pipeline.gates.reference import NOTHING_DECIDED
from pipeline.gates.states import edge_buckets, fill_bucket, holding, random_hidden, walk_states
from pipeline.gates.tolerance import ERROR_RATIO, ERROR_SAMPLES, FP32_TOLERANCE, own_error
from pipeline.gates.verdict import verdict
from pipeline.graph.evaluate import Arrays, GraphSession, near_tokens, run_module, run_scored
from pipeline.graph.precision import dtype_of
from pipeline.graph.stages import Decision, HeadStage, Stage, StageSpec, same_stage
from pipeline.model.transformer import PrunedTransformer


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


def numeric_parity(
    model: PrunedTransformer,
    specs: Sequence[StageSpec],
    samples: Sequence[Tokens],
    root: Path,
    manifest: Manifest,
    backend: Backend,
    threads: int | None = None,
    narrow: PrunedTransformer | None = None,
    cannot_run: str | None = None,
) -> list[Gate]:
    """One gate for the graphs (ONNX Runtime) and one for the engines of `backend`. The reason names the stages.

    Every engine is asked, with the first rows of a sample where none is short enough; a graph, whose shapes are
    symbolic, in the shortest and the longest bucket of a batch size.

    narrow:     PyTorch's counterpart of the graphs in their precision; None: they are in fp32. A stage's error against
                fp32 may be at most twice that of `narrow`, the largest over all buckets and some more samples.
    cannot_run: why this machine cannot run the engines; their gate is then SKIPPED.
    """
    graphs, engines = _Found(), _Found()
    records: dict[tuple[int | str, Bucket], EngineRecord] = {}
    if cannot_run is None:  # INT8 engines are compared with their own simulation, in pipeline.gates.quantized
        held = records_for(manifest, backend)
        records = {(e.stage, e.bucket): e for e in held if e.precision != "int8"}
        cannot_run = None if records else "every engine is in INT8"

    def check(
        stage: Stage | HeadStage, unit: int | str, path: Path, batches: Sequence[tuple[Bucket | None, Arrays, int]]
    ) -> None:
        counterpart = None if narrow is None else same_stage(narrow, stage)
        graph, error = _session(path), 0.0
        edges = edge_buckets([bucket for bucket, *_ in batches if bucket is not None])
        for bucket, inputs, real in batches:
            expected, rounded, undecided = _expected(stage, counterpart, inputs)
            undecided = undecided[:real]
            if counterpart is not None:
                both = _decided(expected, rounded, undecided).values()
                error = max(error, own_error(dtype_of(counterpart), both))
            if bucket is None:
                continue
            if bucket in edges:
                graphs.compare(f"{path.name} at {bucket}", expected, graph(inputs), undecided)
            record = records.get((unit, bucket))
            if record is not None:
                found = _run_engine(load_engine(backend, root, threads, record), inputs)
                engines.compare(record.file, expected, found, undecided)
        for gate in (graphs, engines):
            gate.judge(FP32_TOLERANCE if narrow is None else ERROR_RATIO * error)

    for spec, states in walk_states(model, specs, samples):
        stage = Stage(model, spec)
        path = root / manifest.plan.graphs[spec.index]
        graphs.failures += _wrong_attributes(path, stage)
        filled: list[tuple[Bucket | None, tuple[Arrays, int]]]
        filled = [(bucket, fill_bucket(states, bucket)) for bucket in manifest.plan.buckets_of(spec.index)]
        if narrow is not None:
            filled.append((None, fill_bucket(states[:ERROR_SAMPLES], holding(states[:ERROR_SAMPLES]))))
        check(stage, spec.index, path, [(bucket, *found) for bucket, found in filled])
    if manifest.plan.head_graph:
        inputs = random_hidden(manifest.plan.buckets_of("head"), manifest.encoder.hidden_size)
        batches = [(bucket, hidden, bucket.batch) for bucket, hidden in inputs]
        check(HeadStage(model), "head", root / manifest.plan.head_graph, batches)
    name = f"numeric: engines ({backend.target})"
    narrowed = narrow is not None
    if cannot_run is not None:
        return [graphs.gate("numeric: graphs", narrowed), Gate(name=name, status="SKIPPED", reason=cannot_run)]
    return [graphs.gate("numeric: graphs", narrowed), engines.gate(name, narrowed)]


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
        return expected, expected, _near_in_fp32(decisions, shape[0])
    rounded, others = run_scored(narrow, inputs)
    return expected, rounded, np.any(near_tokens(decisions, others, shape), axis=1)


def _near_in_fp32(decisions: Sequence[Decision], samples: int) -> np.ndarray:
    near = torch.zeros(samples, dtype=torch.bool)
    for score, alive, threshold in decisions:
        living = alive > 0
        scale = score.abs()[living].median() if bool(living.any()) else torch.tensor(0.0)
        close = ((score - threshold).abs() <= 1e-4 * scale) & living
        near |= close.any(-1)
    return near.numpy()


def _decided(expected: Arrays, actual: Arrays, undecided: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By output, what was found and what was expected for the samples that can be compared; {} if there are none."""
    chosen = np.flatnonzero(~undecided)
    if not len(chosen):
        return {}
    return {name: (np.asarray(actual[name])[chosen], value[chosen]) for name, value in expected.items()}


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max())


def _run_engine(engine: Engine, inputs: Arrays) -> Arrays:
    """Outputs with floats in float32, which is what engines in bf16 give anyway."""
    return {n: v.astype(np.float32) if v.dtype == np.float16 else v for n, v in engine(inputs).items()}


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


def load_engine(backend: Backend, root: Path, threads: int | None, record: EngineRecord) -> Engine:
    """An engine of the artifact in `root`; one that cannot be loaded is a GateError."""
    try:
        return backend.load(root / record.file, threads, record.binding)
    except InputError as error:
        raise GateError(str(error)) from None
