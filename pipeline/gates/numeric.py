"""Gate 2: every stage graph and every engine, fed with the reference's own state, gives what PyTorch gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from engines.artifact import Gate, Manifest
from engines.backends import Backend, Engine
from engines.buckets import Bucket
from engines.errors import GateError, InputError
from engines.tokenization import Tokens
from pipeline.gates.reference import NOTHING_DECIDED
from pipeline.graph.operator import NAME
from pipeline.graph.stages import HeadStage, Stage, StageSpec
from pipeline.model.transformer import PrunedTransformer, State

FP32_TOLERANCE = 1e-4
"""Largest difference of an fp32 engine from PyTorch."""

Arrays = dict[str, np.ndarray]


@dataclass
class _Found:
    worst: float = 0.0
    checked: int = 0
    compared: int = 0
    undecided: int = 0
    failures: list[str] = field(default_factory=list)


def numeric_parity(
    model: PrunedTransformer,
    specs: Sequence[StageSpec],
    samples: Sequence[Tokens],
    root: Path,
    manifest: Manifest,
    backend: Backend,
    threads: int | None = None,
) -> list[Gate]:
    """One gate for the graphs (ONNX Runtime) and one for the engines of `backend`. The reason names the stages."""
    graphs, engines = _Found(), _Found()
    records: dict[tuple[int | str, Bucket], str] = {
        (e.stage, e.bucket): e.file for e in manifest.engines if e.target == backend.target
    }
    for spec, states in walk_states(model, specs, samples):
        stage = Stage(model, spec)
        path = root / manifest.plan.stages[spec.index].graph
        graphs.failures += _wrong_attributes(path, stage)
        session = _session(path)
        for bucket in manifest.plan.buckets:
            filled = fill_bucket(states, bucket)
            if filled is None:
                continue
            inputs, real = filled
            expected = _run_torch(stage, inputs)
            flips = _undecided(stage, inputs)[:real]
            found = dict(zip(stage.output_names, session.run(list(stage.output_names), inputs), strict=True))
            _compare(graphs, f"{path.name} at {bucket}", expected, found, flips)
            file = records[spec.index, bucket]
            _compare(engines, file, expected, _load(backend, root / file, threads)(inputs), flips)
    if manifest.plan.head_graph:
        _check_head(model, root, manifest, backend, records, graphs, engines, threads)
    return [_gate("numeric: graphs", graphs), _gate(f"numeric: engines ({backend.target})", engines)]


@torch.no_grad()
def walk_states(
    model: PrunedTransformer, specs: Sequence[StageSpec], samples: Sequence[Tokens]
) -> Iterator[tuple[StageSpec, list[Arrays]]]:
    """For every stage, the state in which the reference has each sample in front of it, one sample at a time."""
    states = [
        {
            "input_ids": np.asarray(item.input_ids, np.int32),
            "token_type_ids": np.asarray(item.token_type_ids, np.int32),
            "alive": np.ones(len(item), np.int32),
        }
        for item in samples
    ]
    for spec in specs:
        yield spec, states
        if not spec.last:
            stage = Stage(model, spec)
            states = [_next_state(_run_torch(stage, {k: v[None] for k, v in state.items()})) for state in states]


def fill_bucket(states: Sequence[Arrays], bucket: Bucket) -> tuple[Arrays, int] | None:
    """A batch of the longest samples that fit and how many they are; None if no sample fits.

    In batches of more than two the last place is left to padding.
    """
    fitting = sorted((s for s in states if len(s["alive"]) <= bucket.length), key=lambda s: -len(s["alive"]))
    if not fitting:
        return None
    chosen = fitting[: bucket.batch - 1 if bucket.batch > 2 else bucket.batch]
    batch = {
        name: np.zeros((bucket.batch, bucket.length, *value.shape[1:]), value.dtype)
        for name, value in chosen[0].items()
    }
    for place, state in enumerate(chosen):
        for name, value in state.items():
            batch[name][place, : len(value)] = value
    return batch, len(chosen)


def _next_state(outputs: Arrays) -> Arrays:
    rows = int(outputs["count"][0])
    names = {"hidden": "packed", "alive": "packed_alive", "position": "packed_position"}
    return {ours: outputs[theirs][0, :rows] for ours, theirs in names.items()}


@torch.no_grad()
def _run_torch(stage: Stage | HeadStage, inputs: Arrays) -> Arrays:
    found = stage(*(torch.from_numpy(inputs[name]) for name in stage.input_names))
    values = found if isinstance(found, tuple) else (found,)
    return {name: value.numpy() for name, value in zip(stage.output_names, values, strict=True)}


@torch.no_grad()
def _undecided(stage: Stage, inputs: Arrays) -> np.ndarray:
    """[B] bool: samples with a score within float32 rounding of a threshold, whose decision may fall either way."""
    model, near = stage.model, torch.zeros(len(inputs["alive"]), dtype=torch.bool)
    tensors = [torch.from_numpy(inputs[name]) for name in stage.input_names]
    state = model.embed(*tensors) if stage.spec.index == 0 else State(*tensors)

    def decide(layer: int, score: torch.Tensor, before: State) -> State:
        threshold = model.pruner.threshold(layer)
        scale = score.abs()[before.alive > 0].median() if bool((before.alive > 0).any()) else torch.tensor(0.0)
        close = ((score - threshold).abs() <= 1e-4 * scale) & (before.alive > 0)
        near.logical_or_(close.any(-1))
        return model.decide_masked(layer, score, before)

    model.walk(state, stage.spec.steps, decide)
    return near.numpy()


def _compare(found: _Found, where: str, expected: Arrays, actual: Arrays, undecided: np.ndarray) -> None:
    """Compares every row of the first `len(undecided)` samples: integers exactly, floats within the tolerance."""
    found.checked += 1
    problems: list[str] = []
    for place, excused in enumerate(undecided):
        if excused:
            found.undecided += 1
            continue
        found.compared += 1
        for name, wanted in expected.items():
            ours, theirs = np.asarray(actual[name][place]), np.asarray(wanted[place])
            if np.issubdtype(theirs.dtype, np.integer):
                if not np.array_equal(ours, theirs):
                    problems.append(f"{name} differs")
                continue
            worst = float(np.abs(ours - theirs).max())
            found.worst = max(found.worst, worst)
            if not worst <= FP32_TOLERANCE:  # also NaN
                problems.append(f"{name} differs by {worst:.3g}")
    if problems:
        rest = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        found.failures.append(f"{where}: {problems[0]}{rest}")


def _check_head(
    model: PrunedTransformer,
    root: Path,
    manifest: Manifest,
    backend: Backend,
    records: dict[tuple[int | str, Bucket], str],
    graphs: _Found,
    engines: _Found,
    threads: int | None,
) -> None:
    stage, generator = HeadStage(model), np.random.default_rng(0)
    path = root / str(manifest.plan.head_graph)
    session = _session(path)
    for bucket in manifest.plan.buckets:
        shape = (bucket.batch, bucket.length, manifest.encoder.hidden_size)
        inputs = {"hidden": generator.standard_normal(shape, np.float32)}
        expected, nobody = _run_torch(stage, inputs), np.zeros(bucket.batch, bool)
        _compare(
            graphs,
            f"{path.name} at {bucket}",
            expected,
            {"logits": session.run(["logits"], inputs)[0]},
            nobody,
        )
        file = records["head", bucket]
        _compare(engines, file, expected, _load(backend, root / file, threads)(inputs), nobody)


def _wrong_attributes(path: Path, stage: Stage) -> list[str]:
    """The operator's attributes must be the model's, the threshold to the bit, whether or not a sample shows it.

    GateError for a file that is not an ONNX graph.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (DecodeError, OSError) as error:
        raise GateError(f"{path.name}: expected an ONNX graph, found {error}") from None
    nodes = [node for node in graph.node if node.op_type == NAME]
    if len(nodes) != (0 if stage.spec.last else 1):
        return [f"{path.name}: holds {len(nodes)} {NAME}; every stage ends with one, but the last"]
    if stage.spec.last:
        return []
    found = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
    found = {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}
    return [
        f"{path.name}: {name} is {found.get(name, 'missing')}, the model's is {expected}"
        for name, expected in stage.compact_attributes.items()
        if found.get(name) != expected
    ]


def _session(path: Path) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class of their own
        raise GateError(f"{path.name}: ONNX Runtime cannot load it: {error}") from None


def _load(backend: Backend, file: Path, threads: int | None) -> Engine:
    try:
        return backend.load(file, threads)
    except InputError as error:
        raise GateError(str(error)) from None


def _gate(name: str, found: _Found) -> Gate:
    figures: dict[str, float | int | str] = {
        "largest_difference": found.worst,
        "tolerance": FP32_TOLERANCE,
        "checked": found.checked,
        "within_rounding_of_threshold": found.undecided,
    }
    if found.failures:
        shown = "; ".join(found.failures[:5]) + (
            f"; and {len(found.failures) - 5} more" if len(found.failures) > 5 else ""
        )
        return Gate(name=name, status="FAILED", reason=shown, figures=figures)
    if not found.compared:
        return Gate(name=name, status="SKIPPED", reason=NOTHING_DECIDED, figures=figures)
    return Gate(name=name, status="PASSED", figures=figures)
