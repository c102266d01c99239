"""Runs samples through fused engines: the whole model in one call, where a sample fits into every capacity."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from engines.artifact import Artifact
from engines.backends import Backend, Engine, records_for
from engines.backends.base import Arrays
from engines.buckets import Bucket
from engines.loading import load_engine, on_all_cores
from engines.samples import Sample
from engines.scheduler import Scheduler
from engines.stage_runner import fill


class FusedRunner:
    """The fused engines of an artifact whose plan has some, loaded at their first use. Safe to call from threads.

    max_batch: uses only buckets of at most so many samples, and only what the plan holds for these.
    samples:   how many went into a fused engine; `overflowed` how many of them did not fit.
    """

    def __init__(self, artifact: Artifact, backend: Backend, threads: int | None, max_batch: int | None = None) -> None:
        plan = artifact.manifest.plan
        assert plan.fused is not None
        self._artifact, self._backend, self._threads = artifact, backend, threads
        records = {r.bucket: r for r in records_for(artifact.manifest, backend) if r.stage == "fused"}
        self._records = {b: record for b, record in records.items() if max_batch is None or b.batch <= max_batch}
        self._capacities = {fused.bucket: fused.capacities for fused in plan.fused.buckets}
        # Of the stages too: at a batch size that is not fused, samples run through these.
        self._batches = sorted({b.batch for b in plan.buckets if max_batch is None or b.batch <= max_batch})
        self._held = {size: [b for b in self._records if b.batch <= size] for size in plan.fused.batches}
        self._schedulers = {size: Scheduler([held]) for size, held in self._held.items() if held}
        self._engines: dict[Bucket, Engine] = {}
        self._turn = threading.Lock()
        self.samples = self.overflowed = 0

    def run(self, window: Sequence[Sample]) -> None:
        """Finishes the samples of a window that fit; leaves the others in front of stage 0, for the stages.

        Does nothing where a window of so many samples runs at a batch size that the plan does not fuse.
        """
        batch = next((size for size in self._batches if size >= len(window)), self._batches[-1])
        if batch not in self._schedulers:
            return
        longest = max(bucket.length for bucket in self._held[batch])
        samples = [sample for sample in window if sample.rows <= longest]
        for work in self._schedulers[batch].calls(0, [sample.rows for sample in samples]):
            self._call(work.bucket, [samples[place] for place in work.samples])

    def load_all(self) -> None:
        """Loads every engine and runs it once."""
        with self._turn:
            for engine in on_all_cores(self._engine, self._records, self._threads):
                engine.run()

    def _call(self, bucket: Bucket, samples: Sequence[Sample]) -> None:
        with self._turn:
            engine = self._engine(bucket)
            fill(engine.inputs, 0, samples, head=False)
            outputs = engine.run()
            for place, sample in enumerate(samples):
                fits = take(sample, place, self._capacities[bucket], outputs)
                self.samples, self.overflowed = self.samples + 1, self.overflowed + (not fits)

    def _engine(self, bucket: Bucket) -> Engine:
        if bucket not in self._engines:
            self._engines[bucket] = load_engine(self._artifact, self._backend, self._records[bucket], self._threads)
        return self._engines[bucket]


def take(sample: Sample, place: int, capacities: Sequence[int], outputs: Arrays) -> bool:
    """Reads the answer of a sample; False, and nothing read, where some of its rows found no room.

    Nor is an answer read that is not finite or has impossible counts: the stages tell which of them is at fault.
    """
    counts = [int(outputs[f"count.{cut}"][place]) for cut in range(len(capacities))]
    rows, logits = [len(sample.tokens), *counts], outputs["logits"][place]
    falling = all(1 <= after <= before for before, after in zip(rows, counts, strict=False))
    if any(count > room for count, room in zip(counts, capacities, strict=True)) or not falling:
        return False
    if not np.isfinite(logits).all():
        return False
    carried = [*counts, counts[-1]]  # the last stage keeps the rows that it gets
    for stage, count in enumerate(carried):
        positions = outputs[f"survivors.{stage}"][place, :count]
        sample.survivors.append(positions[positions >= 0])
    sample.carried += counts
    sample.logits = logits.copy()
    return True
