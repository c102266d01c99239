"""Runs one unit (a stage, or the token-level head) on a batch of samples."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import numpy as np

from engines.artifact import Artifact
from engines.backends import Backend, Engine
from engines.backends.base import Arrays
from engines.buckets import Bucket
from engines.errors import SkimError
from engines.samples import Sample


class StageRunner:
    """The engines of an artifact, loaded at their first use, and how samples go into and come out of them."""

    def __init__(self, artifact: Artifact, backend: Backend, threads: int | None) -> None:
        self._artifact, self._backend, self._threads = artifact, backend, threads
        plan, head = artifact.manifest.plan, artifact.manifest.head
        self._stages, self._token_level = len(plan.stages), head.token_level
        self._records = {
            (self._stages if record.stage == "head" else record.stage, record.bucket): record
            for record in artifact.manifest.engines
            if record.target == backend.target
        }
        self._engines: dict[tuple[int, Bucket], Engine] = {}
        # Held from filling an engine's buffers to reading its outputs: it has one set of buffers.
        self._turn = threading.Lock()

    @property
    def units(self) -> int:
        """Stages, and the token-level head if there is one."""
        return self._stages + int(self._token_level)

    def load_all(self, buckets: Iterable[Bucket]) -> None:
        """Loads every engine of these buckets."""
        with self._turn:
            for bucket in buckets:
                for unit in range(self.units):
                    self._engine(unit, bucket)

    def run(self, unit: int, bucket: Bucket, samples: Sequence[Sample]) -> None:
        """Runs a unit and moves every sample on: to the next unit with its carried rows, or to its logits."""
        with self._turn:
            engine = self._engine(unit, bucket)
            _fill(engine.inputs, unit, samples, head=unit == self._stages)
            outputs = engine.run()
            for place, sample in enumerate(samples):
                if unit == self._stages:
                    sample.logits = outputs["logits"][place, : len(sample.tokens)].copy()
                elif unit == self._stages - 1:
                    self._finish(sample, place, outputs)
                else:
                    self._carry_on(sample, place, outputs)
                self._check_finite(sample, unit)

    def _engine(self, unit: int, bucket: Bucket) -> Engine:
        engine = self._engines.get((unit, bucket))
        if engine is None:
            record = self._records[unit, bucket]
            engine = self._backend.load(self._artifact.file(record.file), self._threads)
            self._engines[unit, bucket] = engine
        return engine

    def _carry_on(self, sample: Sample, place: int, outputs: Arrays) -> None:
        before, count = sample.rows, int(outputs["count"][place])
        if not 1 <= count <= before:
            raise SkimError(
                f"stage {sample.unit}: expected 1 to {before} carried rows for text {sample.number + 1}, found {count}"
            )
        packed, position = outputs["packed"][place], outputs["packed_position"][place]
        if self._token_level:
            # Rows behind `count` have just died (and behind them is padding): this is their last state.
            self._restore(sample, packed[count:before], position[count:before])
        sample.hidden, sample.position = packed[:count].copy(), position[:count].copy()
        sample.alive = outputs["packed_alive"][place, :count].copy()
        sample.survivors.append(sample.position[sample.alive > 0])
        sample.carried.append(count)
        sample.unit += 1

    def _finish(self, sample: Sample, place: int, outputs: Arrays) -> None:
        rows = sample.rows
        position, alive = outputs["final_position"][place, :rows], outputs["final_alive"][place, :rows]
        sample.survivors.append(position[alive > 0])
        sample.unit += 1
        if self._token_level:
            self._restore(sample, outputs["final_hidden"][place, :rows], position)
            sample.hidden = sample.restored
        else:
            sample.logits = outputs["logits"][place].copy()

    @staticmethod
    def _restore(sample: Sample, rows: np.ndarray, position: np.ndarray) -> None:
        if sample.restored is None:
            sample.restored = np.zeros((len(sample.tokens), rows.shape[1]), rows.dtype)
        sample.restored[position] = rows

    def _check_finite(self, sample: Sample, unit: int) -> None:
        values = sample.logits if sample.logits is not None else sample.hidden
        # A sum is not finite iff an element is not (the states' magnitudes are far from overflowing one).
        if values is not None and not np.isfinite(values.sum()):
            name = "head" if unit == self._stages else f"stage {unit}"
            raise SkimError(
                f"{name}: expected finite values, found NaN or infinity for text {sample.number + 1}; "
                "the weights or the precision of the artifact are at fault: run pipeline.parity on it"
            )


def _fill(inputs: dict[str, np.ndarray], unit: int, samples: Sequence[Sample], head: bool) -> None:
    """Writes the samples' rows to the front of the buffers; what is behind them, or unused, is dead."""
    if unit == 0:
        inputs["alive"][...] = 0
        for place, sample in enumerate(samples):
            rows = len(sample.tokens)
            inputs["input_ids"][place, :rows] = sample.tokens.input_ids
            inputs["token_type_ids"][place, :rows] = sample.tokens.token_type_ids
            inputs["alive"][place, :rows] = 1
        return
    if not head:
        inputs["alive"][...] = 0
    for place, sample in enumerate(samples):
        inputs["hidden"][place, : sample.rows] = sample.hidden
        if not head:
            inputs["alive"][place, : sample.rows] = sample.alive
            inputs["position"][place, : sample.rows] = sample.position
