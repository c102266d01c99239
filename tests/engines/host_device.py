"""A device made of host memory, whose streams run in any order that their events allow.

Work is queued and runs only when somebody waits, and then in a random order: a missing wait, or a buffer that is
written while something queued still reads it, gives wrong answers here as it would on a GPU, and more often. Captures
are as strict as CUDA's: nothing may be allocated or waited for, and an engine must have run before.
"""

from __future__ import annotations

import ctypes
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engines.backends.base import Backend, Built, Engine, Profile
from engines.backends.device import Device, Event, Stream, Tensor
from engines.backends.device_engine import DeviceProfile
from engines.binding import Binding
from engines.buckets import Bucket
from engines.errors import SkimError
from plugins.regroup.binding import NO_POSITION, Regroup, Source, Target

DEVICE_ALIGNMENT = 256


class CaptureError(AssertionError):
    """Something that no CUDA graph can hold."""


@dataclass
class Traffic:
    """What a device was asked to do."""

    uploaded: int = 0
    downloaded: int = 0
    regroups: int = 0
    captures: int = 0
    launches: int = 0
    queued_engines: int = 0
    allocated: int = 0


class HostDevice(Device):
    """`regroup`: what moves the rows, on addresses; the kernel run on the host, or the plain one below."""

    def __init__(self, regroup: Callable[[Sequence[Source], Target, int], None], seed: int = 0) -> None:
        self.regroup, self.random = regroup, random.Random(seed)
        self.streams: list[HostStream] = []
        self.traffic = Traffic()
        self.lock = threading.RLock()

    def allocate(self, nbytes: int) -> tuple[int, object]:
        self.refuse_in_capture("an allocation")
        self.traffic.allocated += nbytes
        memory = np.zeros(nbytes + DEVICE_ALIGNMENT, np.uint8)
        return memory.ctypes.data + -memory.ctypes.data % DEVICE_ALIGNMENT, memory

    def pinned(self, nbytes: int) -> np.ndarray:
        self.refuse_in_capture("an allocation")
        return np.zeros(nbytes, np.uint8)

    def stream(self) -> HostStream:
        self.streams.append(HostStream(self, len(self.streams) + 1))
        return self.streams[-1]

    def event(self) -> HostEvent:
        return HostEvent(self)

    def refuse_in_capture(self, what: str) -> None:
        if any(stream.capturing is not None for stream in self.streams):
            raise CaptureError(f"{what} while a stream is captured")

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Runs queued work, of a random stream each time, until `reached`."""
        with self.lock:
            while not reached():
                ready = [stream for stream in self.streams if stream.queue and stream.queue[0].ready()]
                if not ready:
                    raise AssertionError("streams wait for each other, or for an event that nothing records")
                self.random.choice(ready).queue.popleft().run()


@dataclass
class _Work:
    run: Callable[[], None]
    ready: Callable[[], bool] = field(default=lambda: True)


class HostEvent(Event):
    """Counts how often it was recorded, and how far the device has come with that."""

    def __init__(self, device: HostDevice) -> None:
        self.device, self.recorded, self.passed = device, 0, 0

    def synchronize(self) -> None:
        self.device.refuse_in_capture("a wait")
        wanted = self.recorded
        self.device.run_until(lambda: self.passed >= wanted)


class HostStream(Stream):
    """A queue of closures."""

    def __init__(self, device: HostDevice, handle: int) -> None:
        self.device, self.handle = device, handle
        self.queue: deque[_Work] = deque()
        self.capturing: list[Callable[[], None]] | None = None

    def put(self, run: Callable[[], None]) -> None:
        if self.capturing is not None:
            self.capturing.append(run)
        else:
            with self.device.lock:
                self.queue.append(_Work(run))

    def upload(self, source: np.ndarray, address: int) -> None:
        self.device.traffic.uploaded += source.nbytes
        self.put(lambda: ctypes.memmove(address, source.ctypes.data, source.nbytes))

    def download(self, address: int, target: np.ndarray) -> None:
        self.device.traffic.downloaded += target.nbytes
        self.put(lambda: ctypes.memmove(target.ctypes.data, address, target.nbytes))

    def regroup(self, sources: Sequence[Source], target: Target) -> None:
        self.device.traffic.regroups += 1
        self.put(lambda: self.device.regroup(sources, target, 0))

    def record(self, event: Event) -> None:
        assert isinstance(event, HostEvent) and self.capturing is None
        with self.device.lock:
            event.recorded += 1
            number = event.recorded
            self.queue.append(_Work(lambda: setattr(event, "passed", max(event.passed, number))))

    def wait(self, event: Event) -> None:
        assert isinstance(event, HostEvent) and self.capturing is None
        with self.device.lock:
            number = event.recorded
            self.queue.append(_Work(lambda: None, lambda: event.passed >= number))

    def capture(self, work: Callable[[], None]) -> object:
        self.capturing = []
        try:
            work()
            graph = self.capturing
        finally:
            self.capturing = None
        self.device.traffic.captures += 1
        return graph

    def launch(self, graph: object) -> None:
        assert isinstance(graph, list)
        self.device.traffic.launches += 1
        for run in graph:
            self.put(run)

    def synchronize(self) -> None:
        self.device.refuse_in_capture("a wait")
        self.device.run_until(lambda: not self.queue)


class HostExecutable:
    """An ordinary profile as a compiled one: it copies from and to the addresses that it is bound to."""

    def __init__(self, device: HostDevice, engine: Profile) -> None:
        self.device, self.engine = device, engine
        self.inputs = {name: Tensor(a.shape, a.dtype) for name, a in engine.inputs.items()}
        self.outputs = {name: Tensor(a.shape, a.dtype) for name, a in engine.run().items()}

    @property
    def scratch_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.inputs.values())

    def execution(self, scratch: int, stream: int) -> HostExecution:
        return HostExecution(self, scratch)


class HostExecution:
    """A context: bound once, queued any number of times."""

    def __init__(self, executable: HostExecutable, scratch: int) -> None:
        self.executable, self.scratch = executable, scratch
        self.bound: dict[str, int] = {}
        self.captured: dict[str, int] | None = None
        self.ran = False

    def bind(self, name: str, address: int) -> None:
        if self.captured is not None:
            raise CaptureError(f"{name} is bound anew, but a graph holds the old address")
        self.bound[name] = address

    def enqueue(self, stream: int) -> None:
        owner = next(s for s in self.executable.device.streams if s.handle == stream)
        if owner.capturing is not None:
            if not self.ran:
                raise CaptureError("the engine has not run yet")
            self.captured = dict(self.bound)
        missing = {*self.executable.inputs, *self.executable.outputs} - set(self.bound)
        if missing:
            raise SkimError(f"not bound: {sorted(missing)}")
        self.executable.device.traffic.queued_engines += 1
        owner.put(self._run)

    def _run(self) -> None:
        self.ran = True
        view(self.scratch, Tensor((self.executable.scratch_bytes,), np.dtype(np.uint8))).fill(0xA5)
        engine = self.executable.engine
        for name, tensor in self.executable.inputs.items():
            engine.inputs[name][...] = view(self.bound[name], tensor)
        for name, value in engine.run().items():
            view(self.bound[name], self.executable.outputs[name])[...] = value


class HostEngine(Engine):
    """An engine whose profiles are on a device."""

    def __init__(self, device: HostDevice, inner: Engine) -> None:
        self.device, self.inner = device, inner

    def profile(self, bucket: Bucket) -> DeviceProfile:
        return DeviceProfile(self.device, HostExecutable(self.device, self.inner.profile(bucket)))


class HostDeviceBackend(Backend):
    """A CPU backend whose engines pretend to be on a device."""

    target, provider, precisions = "cpu", "host device", ("fp32",)

    def __init__(self, inner: Backend, device: HostDevice) -> None:
        self.inner, self.host_device = inner, device

    def available(self) -> str | None:
        return self.inner.available()

    def build(self, *arguments, **options) -> Built:
        return self.inner.build(*arguments, **options)

    def load(self, engine_file: Path, threads: int | None, binding: Binding | None = None, *read) -> HostEngine:
        return HostEngine(self.host_device, self.inner.load(engine_file, threads, None, *read))

    def device(self) -> Device:
        return self.host_device


def view(address: int, tensor: Tensor) -> np.ndarray:
    """The array at an address."""
    raw = (ctypes.c_uint8 * tensor.nbytes).from_address(address)
    return np.frombuffer(memoryview(raw), tensor.dtype).reshape(tensor.shape)


def plain_regroup(sources: Sequence[Source], target: Target, stream: int) -> None:
    """What skimrt_regroup does, in numpy; for a machine where the kernels were not built for the host."""
    shape, row = (target.batch, target.length), target.row_bytes
    hidden = view(target.hidden, Tensor((*shape, row), np.dtype(np.uint8)))
    alive, position = (view(a, Tensor(shape, np.dtype(np.int32))) for a in (target.alive, target.position))
    hidden[...], alive[...], position[...] = 0, 0, NO_POSITION
    for place, source in enumerate(sources):
        if not source.hidden:
            continue
        rows, at = min(source.length, target.length), source.sample * source.length
        hidden[place, :rows] = view(source.hidden + at * row, Tensor((rows, row), np.dtype(np.uint8)))
        alive[place, :rows] = view(source.alive + 4 * at, Tensor((rows,), np.dtype(np.int32)))
        position[place, :rows] = view(source.position + 4 * at, Tensor((rows,), np.dtype(np.int32)))


def kernel_regroup(library: Path) -> Regroup:
    """The CUDA kernel, compiled for the host."""
    return Regroup(ctypes.CDLL(str(library)))
