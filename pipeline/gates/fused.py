"""Gates 2 and 3 for fused engines: what fits gives PyTorch's answers and tokens, and what does not fit says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from engines.artifact import Figures, Gate, Manifest
from engines.backends import Backend, records_for
from engines.backends.base import Engine
from engines.fused import take
from engines.plan import FusedBucket
from engines.prediction import SampleResult
from engines.runner import Runner
from engines.samples import Sample
from engines.stage_runner import fill
from pipeline.gates.decisions import decision_parity
from pipeline.gates.numeric import load_engine
from pipeline.gates.reference import NOTHING_DECIDED, near_threshold
from pipeline.gates.states import chosen_for
from pipeline.gates.tolerance import FP32_TOLERANCE
from pipeline.gates.verdict import verdict
from pipeline.graph.stages import StageSpec
from pipeline.model.reference import Reference
from pipeline.model.transformer import PrunedTransformer

_WIDTH = 0.1
"""Roundings from a threshold within which an engine's decision may differ from PyTorch's."""


def fused_parity(
    model: PrunedTransformer,
    specs: Sequence[StageSpec],
    reference: Reference,
    root: Path,
    manifest: Manifest,
    backend: Backend,
    threads: int | None = None,
) -> list[Gate]:
    """Every fused engine, fed with the longest samples that it takes; those that none fits have a gate of their own.

    A sample that has room must get the reference's logits, to 1e-4, its counts, and its tokens at the end of every
    stage; one that has not must be told by the counts. Samples with a score within rounding of a threshold may go
    either way and are counted apart.
    """
    assert manifest.plan.fused is not None
    records = {record.bucket: record for record in records_for(manifest, backend) if record.stage == "fused"}
    near = [near_threshold(model, reference, index, _WIDTH) for index in range(len(reference.samples))]
    worst, failures, unasked = 0.0, [], []
    compared = undecided = overflowed = 0
    for fused in manifest.plan.fused.buckets:
        record = records[fused.bucket]
        chosen = chosen_for([len(tokens) for tokens in reference.samples], fused.bucket)
        if not chosen:
            unasked.append(str(fused.bucket))
            continue
        engine = load_engine(backend, root, threads, record)
        for index, result in _run(engine, fused, reference, chosen):
            if near[index]:
                undecided += 1
                continue
            compared += 1
            counts, survivors = _expected(specs, reference, index)
            fits = all(count <= room for count, room in zip(counts, fused.capacities, strict=True))
            overflowed += not fits
            if fits != (result is not None):
                failures.append(
                    f"{record.file}: sample {index} {'fits' if fits else 'does not fit'}, it says otherwise"
                )
            if result is None or not fits:
                continue
            difference = float(np.abs(result.logits - reference.logits[index].numpy()).max())
            worst = max(worst, difference)
            same = result.carried == counts and all(map(np.array_equal, result.survivors, survivors))
            if not difference <= FP32_TOLERANCE or not same:
                what = f"logits differ by {difference:.3g}" if same else "other tokens are kept"
                failures.append(f"{record.file}: sample {index}: {what}")
    figures: Figures = {
        "largest_difference": worst,
        "tolerance": FP32_TOLERANCE,
        "engines": len(manifest.plan.fused.buckets) - len(unasked),
        "checked": compared,
        "overflowed": overflowed,
        "within_rounding_of_threshold": undecided,
    }
    name = f"numeric: fused engines ({backend.target})"
    found = verdict(name, figures, failures, None if compared else NOTHING_DECIDED)
    if not unasked:
        return [found]
    reason = f"no sample of the gates is short enough for {', '.join(unasked)}"
    return [found, Gate(name=f"{name}, not asked", status="SKIPPED", reason=reason)]


def fused_decisions(
    model: PrunedTransformer,
    specs: Sequence[StageSpec],
    reference: Reference,
    manifest: Manifest,
    runner_of: Callable[[int], Runner],
) -> list[Gate]:
    """Gate 3 of the fused engines at each batch size, those that overflow run again through the stages.

    runner_of: a runner of at most so many samples a call.
    """
    assert manifest.plan.fused is not None
    found = []
    for batch in manifest.plan.fused.batches:
        runner = runner_of(batch)
        gate = decision_parity(model, specs, reference, runner.run_tokens(reference.samples))
        assert runner.fused is not None
        figures = {**gate.figures, "fused": runner.fused.samples, "run_again": runner.fused.overflowed}
        found.append(gate.model_copy(update={"name": f"decisions: fused, batch {batch}", "figures": figures}))
    return found


def _run(
    engine: Engine, fused: FusedBucket, reference: Reference, chosen: Sequence[int]
) -> list[tuple[int, SampleResult | None]]:
    """The chosen samples, and what the engine gives; None where it has no room."""
    samples = [Sample(index, reference.samples[index]) for index in chosen]
    fill(engine.inputs, 0, samples, head=False)
    outputs = engine.run()
    return [
        (sample.number, sample.result() if take(sample, place, fused.capacities, outputs) else None)
        for place, sample in enumerate(samples)
    ]


def _expected(specs: Sequence[StageSpec], reference: Reference, index: int) -> tuple[list[int], list[np.ndarray]]:
    """The rows behind every cut, and the positions of the tokens that are alive where each stage ends."""
    counts, alive = reference.counts[index], reference.alive[index]
    cuts = [spec.steps[-1].layer for spec in specs[:-1]]
    survivors = [torch.nonzero(alive[layer]).flatten().numpy() for layer in [*cuts, -1]]
    return [int(counts[layer]) for layer in cuts], survivors
