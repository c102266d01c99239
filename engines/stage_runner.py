"""Runs one unit (a stage, or the token-level head) on a batch of samples."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engines.artifact import Artifact
from engines.backends import Backend, Engine, Profile, records_for
from engines.backends.base import Arrays
from engines.buckets import Bucket
from engines.errors import InputError, SkimError
from engines.loading import load_engine, on_all_cores
from engines.manifest import EngineRecord
from engines.samples import Sample
from engines.stages import POOLED, POOLED_ON, original, tensor_names


@dataclass
class Call:
    """One call of a unit: its samples, the rows that each of them went in with, and what went wrong."""

    unit: int
    samples: Sequence[Sample]
    rows: list[int]
    error: SkimError | None = None


class StageRunner:
    """The engines of an artifact, loaded at their first use, and how samples go into and come out of them.

    streams: calls that are worth starting before the first one is finished.
    """

    streams = 1
    _stays: frozenset[str] = frozenset()
    """Outputs that the host does not get."""

    def __init__(self, artifact: Artifact, backend: Backend, threads: int | None) -> None:
        self._artifact, self._backend, self._threads = artifact, backend, threads
        plan, head = artifact.manifest.plan, artifact.manifest.head
        self._stages, self._token_level, self._pools = len(plan.stages), head.token_level, head.pools
        self._records = {
            (self._stages if record.stage == "head" else record.stage, bucket): record
            for record in records_for(artifact.manifest, backend)
            for bucket in record.profiles
        }
        self._engines: dict[str, Engine] = {}
        self._profiles: dict[tuple[int, Bucket], Profile] = {}
        # Held from filling a profile's buffers to reading its outputs: it has one set of buffers.
        self._turn = threading.Lock()

    @property
    def units(self) -> int:
        """Stages, and the token-level head if there is one."""
        return self._stages + int(self._token_level)

    def load_all(self, buckets: Sequence[Iterable[Bucket]]) -> None:
        """Loads the engines that run these buckets of every unit, several at a time, and prepares these profiles."""
        wanted: dict[str, tuple[EngineRecord, list[Bucket]]] = {}
        for unit, shapes in enumerate(buckets):
            for bucket in shapes:
                record = self._records[unit, bucket]
                wanted.setdefault(record.file, (record, []))[1].append(bucket)
        with self._turn:
            self._prepare(wanted.values())

    def run(self, unit: int, bucket: Bucket, samples: Sequence[Sample]) -> None:
        """Runs a unit and moves every sample on: to the next unit with its carried rows, or to its logits."""
        self.finish(self.start(unit, bucket, samples))

    def start(self, unit: int, bucket: Bucket, samples: Sequence[Sample]) -> Call:
        """Starts a call; `finish` moves its samples on, and until then they belong to the call."""
        call = Call(unit, samples, [sample.rows for sample in samples])
        with self._turn:
            profile = self._profile(unit, bucket)
            fill(profile.inputs, unit, samples, head=unit == self._stages)
            self._move_on(call, profile.run())
        return call

    def finish(self, call: Call) -> None:
        """Waits for a call. Raises SkimError, also for what went wrong with any of its samples."""
        self.wait(call)
        for sample in call.samples:
            if sample.error is not None:
                raise sample.take_error()

    def wait(self, call: Call) -> None:
        """Waits for a call, whose samples have moved on then or hold their errors. Raises SkimError for the call's."""

    def _move_on(self, call: Call, outputs: Arrays) -> None:
        self._refuse_outputs_of_another(call.unit, outputs)
        for index, sample in enumerate(call.samples):
            try:
                if call.unit == self._stages:
                    sample.logits = outputs["logits"][index, : len(sample.tokens)].copy()
                elif call.unit == self._stages - 1:
                    self._end(call, index, outputs)
                else:
                    self._carry_on(call, index, outputs)
                self._check_finite(sample, call.unit)
            except SkimError as error:
                # The sample's alone. Without its traceback, which refers to the call: what is in a cycle holds a
                # device's memory until it is collected.
                sample.error, sample.resident = error.with_traceback(None), None

    def _prepare(self, wanted: Iterable[tuple[EngineRecord, list[Bucket]]]) -> None:
        def prepare(engine: tuple[EngineRecord, list[Bucket]]) -> None:
            record, buckets = engine
            self._engine(record).prepare(buckets)

        on_all_cores(prepare, wanted, self._threads)

    def _profile(self, unit: int, bucket: Bucket) -> Profile:
        profile = self._profiles.get((unit, bucket))
        if profile is None:
            record = self._records[unit, bucket]
            profile = self._engine(record).profile(bucket)
            self._refuse_inputs_of_another(record, unit, bucket, profile)
            self._profiles[unit, bucket] = profile
        return profile

    def _refuse_inputs_of_another(self, record: EngineRecord, unit: int, bucket: Bucket, profile: Profile) -> None:
        """Raises InputError for an engine that takes other tensors than its stage: the manifest has confused them."""
        width = self._artifact.manifest.encoder.hidden_size
        names, _ = tensor_names(unit, self._stages, self._token_level, self._pools)
        shape = (bucket.batch, bucket.length)
        expected = {name: (*shape, width) if name == "hidden" else shape for name in names}
        if POOLED in expected:
            expected[POOLED] = (bucket.batch, width + 1)
        found = profile.input_shapes
        # A library drops an input that a model without segments does not read.
        if found != expected and found != {n: s for n, s in expected.items() if n != "token_type_ids"}:
            raise InputError(f"{record.file}: expected an engine that takes {expected}, found one that takes {found}")

    def _refuse_outputs_of_another(self, unit: int, outputs: Arrays) -> None:
        _, names = tensor_names(unit, self._stages, self._token_level, self._pools)
        missing = [name for name in names if name not in outputs and name not in self._stays]
        if missing:
            raise InputError(f"stage {unit}: expected an engine that returns {', '.join(names)}, found no {missing[0]}")

    def _engine(self, record: EngineRecord) -> Engine:
        engine = self._engines.get(record.file)
        if engine is None:
            engine = load_engine(self._artifact, self._backend, record, self._threads)
            self._engines[record.file] = engine
        return engine

    def _carry_on(self, call: Call, index: int, outputs: Arrays) -> None:
        sample, before, count = call.samples[index], call.rows[index], int(outputs["count"][index])
        if not 1 <= count <= before:
            raise SkimError(
                f"stage {sample.unit}: expected 1 to {before} carried rows for text {sample.number + 1}, found {count}"
            )
        alive, position = outputs["packed_alive"][index], original(outputs["packed_position"][index])
        if self._token_level:
            # Rows behind `count` have just died (and behind them is padding): this is their last state.
            self._restore(sample, outputs["packed"][index, count:before], position[count:before])
        if self._pools:
            sample.pooled = outputs[POOLED_ON][index].copy()
        self._keep(call, index, count, outputs)
        sample.survivors.append(position[:count][alive[:count] > 0])
        sample.carried.append(count)
        sample.unit += 1

    def _keep(self, call: Call, index: int, count: int, outputs: Arrays) -> None:
        """Keeps the carried rows of a sample, which are the first `count` at its index."""
        sample = call.samples[index]
        sample.hidden = outputs["packed"][index, :count].copy()
        sample.alive = outputs["packed_alive"][index, :count].copy()
        sample.position = outputs["packed_position"][index, :count].copy()

    def _end(self, call: Call, index: int, outputs: Arrays) -> None:
        sample, rows = call.samples[index], call.rows[index]
        position, alive = original(outputs["final_position"][index, :rows]), outputs["final_alive"][index, :rows]
        sample.survivors.append(position[alive > 0])
        sample.unit += 1
        if self._token_level:
            self._restore(sample, outputs["final_hidden"][index, :rows], position)
            sample.hidden = sample.restored
        else:
            sample.logits = outputs["logits"][index].copy()

    @staticmethod
    def _restore(sample: Sample, rows: np.ndarray, position: np.ndarray) -> None:
        if sample.restored is None:
            sample.restored = np.zeros((len(sample.tokens), rows.shape[1]), rows.dtype)
        sample.restored[position] = rows

    def _check_finite(self, sample: Sample, unit: int) -> None:
        values = sample.logits if sample.logits is not None else sample.hidden
        # A sum is not finite iff an element is not (the states' magnitudes are far from overflowing one in float32).
        if values is not None and not np.isfinite(values.sum(dtype=np.float32)):
            name = "head" if unit == self._stages else f"stage {unit}"
            raise SkimError(
                f"{name}: expected finite values, found NaN or infinity for text {sample.number + 1}; "
                "the weights or the precision of the artifact are at fault: run pipeline.parity on it"
            )


def fill(inputs: dict[str, np.ndarray], unit: int, samples: Sequence[Sample], head: bool) -> None:
    """Writes the samples' rows to the front of the buffers; what is behind them, or unused, is dead.

    Behind a sample's rows nothing of another sample stays: what is multiplied by zero there must be finite, so a row is
    the sample's own first token, or zeros.
    """
    if unit == 0:
        inputs["alive"][...] = 0
        for index, sample in enumerate(samples):
            rows = len(sample.tokens)
            _put(inputs["input_ids"][index], sample.tokens.input_ids, sample.tokens.input_ids[0])
            if "token_type_ids" in inputs:  # OpenVINO drops an input that a model without segments does not read
                types = sample.tokens.token_type_ids
                _put(inputs["token_type_ids"][index], types, types[0])
            inputs["alive"][index, :rows] = 1
        return
    if not head:
        inputs["alive"][...] = 0
    fill_pooled(inputs, samples)
    for index, sample in enumerate(samples):
        assert sample.hidden is not None
        _put(inputs["hidden"][index], sample.hidden, 0)
        if not head:
            inputs["alive"][index, : sample.rows] = sample.alive
            inputs["position"][index, : sample.rows] = sample.position


def fill_pooled(inputs: dict[str, np.ndarray], samples: Sequence[Sample]) -> None:
    """Writes what the samples' dropped rows add to their means, where a stage takes that."""
    if POOLED in inputs:
        for index, sample in enumerate(samples):
            inputs[POOLED][index] = sample.pooled


def _put(buffer: np.ndarray, rows: Sequence[int] | np.ndarray, behind: int) -> None:
    buffer[: len(rows)] = rows
    buffer[len(rows) :] = behind
