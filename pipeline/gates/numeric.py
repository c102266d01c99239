"""Gate 2: every stage graph and every engine, fed with the reference's own state, gives what PyTorch gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch

from engines.artifact import Gate, Manifest
from engines.backends import Backend
from engines.buckets import Bucket
from engines.tokenization import Tokens
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
    records = {(e.stage, e.bucket): e.file for e in manifest.engines if e.target == backend.target}
    for spec, states in walk_states(model, specs, samples):
        stage = Stage(model, spec)
        path = root / manifest.plan.stages[spec.index].graph
        graphs.failures += _wrong_thresholds(path, stage)
        session = _session(path)
        for bucket in manifest.plan.buckets:
            inputs = fill_bucket(states, bucket)
            if inputs is None:
                continue
            expected = _run_torch(stage, inputs)
            flips = _undecided(stage, inputs)
            found = dict(zip(stage.output_names, session.run(list(stage.output_names), inputs), strict=True))
            _compare(graphs, f"{path.name} at {bucket}", expected, found, flips)
            engine = backend.load(root / records[spec.index, bucket], threads)
            _compare(engines, f"{records[spec.index, bucket]}", expected, engine(inputs), flips)
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


def fill_bucket(states: Sequence[Arrays], bucket: Bucket) -> Arrays | None:
    """A batch of the longest samples that fit, the last place left to padding in batches of more than two; None if no
    sample fits."""
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
    return batch


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

    def decide(layer: int, score: torch.Tensor, before):  # type: ignore[no-untyped-def]
        threshold = model.pruner.threshold(layer)
        scale = score.abs()[before.alive > 0].median() if bool((before.alive > 0).any()) else torch.tensor(0.0)
        close = ((score - threshold).abs() <= 1e-4 * scale) & (before.alive > 0)
        near.logical_or_(close.any(-1))
        return model.decide_masked(layer, score, before)

    model.walk(state, stage.spec.steps, decide)
    return near.numpy()


def _compare(found: _Found, where: str, expected: Arrays, actual: Arrays, undecided: np.ndarray) -> None:
    """Compares every row of every real sample: integers exactly, floats within the tolerance."""
    found.checked += 1
    problems: list[str] = []
    alive = next((expected[name] for name in expected if name.endswith("alive")), None)
    for place in range(len(undecided)):
        if alive is not None and not alive[place].any():
            continue  # a place that is left to padding
        if undecided[place]:
            found.undecided += 1
            continue
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


def _check_head(  # type: ignore[no-untyped-def]
    model: PrunedTransformer,
    root: Path,
    manifest: Manifest,
    backend: Backend,
    records,
    graphs,
    engines,
    threads,
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
        engine = backend.load(root / records["head", bucket], threads)
        _compare(engines, records["head", bucket], expected, engine(inputs), nobody)


def _wrong_thresholds(path: Path, stage: Stage) -> list[str]:
    """The operator's threshold must be the model's to the bit, also where no sample's score lies between the two."""
    nodes = [node for node in onnx.load(path, load_external_data=False).graph.node if node.op_type == NAME]
    if stage.spec.last:
        return [f"{path.name}: holds a {NAME}, the last stage has none"] if nodes else []
    expected = stage.model.pruner.threshold(stage.spec.steps[-1].layer)
    found = [a.f for node in nodes for a in node.attribute if a.name == "threshold"]
    if found == [expected]:
        return []
    return [f"{path.name}: threshold is {', '.join(f'{value:.9g}' for value in found)}, the model's is {expected:.9g}"]


def _session(path: Path):  # type: ignore[no-untyped-def]
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


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
    return Gate(name=name, status="PASSED", figures=figures)
