"""Runs units on a device: hidden states stay there, calls overlap, and only a few integers a row come to the host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engines.artifact import Artifact
from engines.backends import Backend
from engines.backends.base import Arrays
from engines.backends.device import Device
from engines.backends.device_engine import DeviceProfile, Lane, ProfileContext
from engines.buckets import Bucket
from engines.device_rows import Mover, Resident, Rows
from engines.errors import SkimError
from engines.samples import Sample
from engines.stage_runner import Call, StageRunner, fill, fill_pooled
from engines.stages import CARRIED, LATER_INPUTS, resident


class _Lane(Lane):
    """A stream, the contexts that run on it, and the call that it works on."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.contexts: dict[tuple[int, Bucket], _Context] = {}
        self.call: _DeviceCall | None = None


class _Context:
    """A profile's context, with the rows that it reads and the rows that it leaves; None where the host has them."""

    def __init__(self, context: ProfileContext, reads: bool, leaves: bool) -> None:
        self.engine = context
        self.input = Rows(*(context.arrays[name] for name in LATER_INPUTS)) if reads else None
        self.output = Rows(*(context.arrays[name] for name in CARRIED.values())) if leaves else None


class _DeviceCall(Call):
    """A call that a lane works on, or has finished. It does not refer to its lane, which refers to it."""

    context: _Context
    done = False


class DeviceStageRunner(StageRunner):
    """Stage runner over device buffers.

    A call is put on a lane that is free and moves its samples on when it is finished: by `finish`, or by whoever needs
    the lane first, so that a call that was given up blocks nobody. Per row come two integers to the host, alive and
    position, and per sample the count, in one copy; hidden states only for a token-level head, which reads them from
    every stage.
    """

    _stays = frozenset({"packed"})

    def __init__(
        self,
        artifact: Artifact,
        backend: Backend,
        threads: int | None,
        device: Device,
        streams: int,
        cuda_graphs: bool,
    ) -> None:
        super().__init__(artifact, backend, threads)
        self.streams, self._graphs = streams, cuda_graphs
        self._mover = Mover(device)
        # In the order in which they were last used, oldest first.
        self._lanes = [_Lane(device) for _ in range(streams)]

    def load_all(self, buckets: Sequence[Iterable[Bucket]]) -> None:
        """Loads the engines that run these buckets of every unit; captures a graph of each bucket on every stream."""
        with self._turn:
            keys = [(unit, bucket) for unit, shapes in enumerate(buckets) for bucket in shapes]
            scratch = max(self._device_profile(*key).executable.scratch_bytes for key in keys)
            for lane in self._lanes:
                lane.scratch(scratch)
                for key in keys:
                    self._context(lane, *key)

    def start(self, unit: int, bucket: Bucket, samples: Sequence[Sample]) -> Call:
        call = _DeviceCall(unit, samples, [sample.rows for sample in samples])
        with self._turn:
            lane = self._free_lane()
            context = call.context = self._context(lane, unit, bucket)
            if context.input is None:
                fill(context.engine.inputs, unit, samples, head=unit == self._stages)
            else:
                self._mover.gather([_leave(sample) for sample in samples], context.input)
                fill_pooled(context.engine.inputs, samples)
            if context.output is not None:
                self._mover.park(context.output)
            self._mover.let_wait(lane.stream)
            context.engine.launch()
            lane.call = call
        return call

    def wait(self, call: Call) -> None:
        assert isinstance(call, _DeviceCall)
        if not call.done:
            call.context.engine.done.synchronize()  # without the lock, so that others can start meanwhile
        with self._turn:
            self._complete(call)
        try:
            if call.error is not None:
                raise call.error
        finally:
            call.error = None  # which from here on has a traceback, and so refers to the call

    def _complete(self, call: _DeviceCall) -> None:
        if call.done:
            return
        call.context.engine.done.synchronize()
        lane = next(lane for lane in self._lanes if lane.call is call)
        call.done, lane.call = True, None
        try:
            self._move_on(call, call.context.engine.outputs)
        except SkimError as error:
            # The caller's, who is perhaps not this thread. Without its traceback, which refers to the call: what is in
            # a cycle holds the device's memory until it is collected.
            call.error = error.with_traceback(None)

    def _free_lane(self) -> _Lane:
        lane = next((lane for lane in self._lanes if lane.call is None), self._lanes[0])
        if lane.call is not None:
            self._complete(lane.call)
        self._lanes.remove(lane)
        self._lanes.append(lane)
        return lane

    def _context(self, lane: _Lane, unit: int, bucket: Bucket) -> _Context:
        context = lane.contexts.get((unit, bucket))
        if context is None:
            profile = self._device_profile(unit, bucket)
            reads, leaves = 0 < unit < self._stages, unit < self._stages - 1
            staying = resident(reads, self._token_level)
            context = _Context(profile.context(lane, staying, self._graphs), reads, leaves)
            lane.contexts[unit, bucket] = context
        return context

    def _device_profile(self, unit: int, bucket: Bucket) -> DeviceProfile:
        profile = self._profile(unit, bucket)
        assert isinstance(profile, DeviceProfile)
        return profile

    def _keep(self, call: Call, index: int, count: int, outputs: Arrays) -> None:
        assert isinstance(call, _DeviceCall) and call.context.output is not None
        call.samples[index].resident = call.context.output.hold(index, count)


def _leave(sample: Sample) -> Resident:
    """Takes a sample's rows from it. Their buffer is free once the caller drops what this returns."""
    resident, sample.resident = sample.resident, None
    assert resident is not None
    return resident
