"""The device of the targets `tensorrt` and `tensorrt-rtx`: an NVIDIA GPU through cuda-python, without PyTorch.

The plugin library is imported at its first use: a deployment on a CPU has none.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np

from engines.backends.device import Device, Event, Stream
from engines.errors import SkimError, TargetError

if TYPE_CHECKING:
    from plugins.regroup.binding import Regroup, Source, Target


def missing_bindings() -> str | None:
    """None where the package is installed through which we call CUDA, else that it is not."""
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        return "the package cuda-python is not installed; pip install 'skimrt[gpu]'"
    return None


def missing_cuda() -> str | None:
    """None where this machine has a GPU that we can use, else the package, driver or library that is missing."""
    missing = missing_bindings()
    if missing is not None:
        return missing
    from plugins.library import PluginError, open_library

    runtime = _runtime()
    status, count = runtime.cudaGetDeviceCount()
    if status != runtime.cudaError_t.cudaSuccess or not count:
        reason = "none found" if not int(status) else _reason(runtime, status)
        return f"no CUDA device: {reason}; install an NVIDIA driver for CUDA 13, and see what nvidia-smi says"
    try:
        open_library()
    except PluginError as error:
        return str(error)
    return None


@cache
def cuda_device() -> CudaDevice:
    """The first GPU that CUDA shows this process (CUDA_VISIBLE_DEVICES chooses). Raises TargetError without one."""
    missing = missing_cuda()
    if missing is not None:
        raise TargetError(missing)
    from plugins.library import open_library
    from plugins.regroup.binding import Regroup

    return CudaDevice(_runtime(), Regroup(open_library()))


class CudaDevice(Device):
    """The current CUDA device, through the CUDA runtime API.

    runtime: the module cuda.bindings.runtime.
    """

    def __init__(self, runtime: Any, regroup: Regroup) -> None:
        self.runtime, self.regroup = runtime, regroup
        self.call("cudaSetDevice", 0)

    def call(self, name: str, *arguments: object) -> Any:
        """Calls a function of the runtime and returns its result. Raises SkimError with CUDA's reason."""
        status, *results = getattr(self.runtime, name)(*arguments)
        if int(status):
            raise SkimError(
                f"{name}: expected success, found {_reason(self.runtime, status)} (CUDA {int(status)}); if the memory "
                "is short use fewer streams or smaller buckets, otherwise start the process again"
            )
        return results[0] if results else None

    def allocate(self, nbytes: int) -> tuple[int, object]:
        address = int(self.call("cudaMalloc", nbytes))
        owner = _Owner(self, "cudaFree", address)
        self.call("cudaMemset", address, 0, nbytes)
        self.call("cudaStreamSynchronize", 0)  # our streams do not wait for the default one, which clears
        return address, owner

    def pinned(self, nbytes: int) -> np.ndarray:
        address = int(self.call("cudaMallocHost", nbytes))
        buffer = (ctypes.c_uint8 * nbytes).from_address(address)
        buffer.owner = _Owner(self, "cudaFreeHost", address)  # type: ignore[attr-defined]
        array = np.ctypeslib.as_array(buffer)  # keeps the buffer
        array[...] = 0
        return array

    def stream(self) -> Stream:
        return _CudaStream(self)

    def event(self) -> Event:
        return _CudaEvent(self)


class _Owner:
    """Keeps something of CUDA's: `free` is called on it when nothing refers to this any more."""

    def __init__(self, device: CudaDevice, free: str, owned: Any) -> None:
        self.owned = owned
        # Not when the process ends: the driver frees all then, and is perhaps gone already.
        finalize(self, getattr(device.runtime, free), owned).atexit = False


class _CudaEvent(Event):
    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        created = device.call("cudaEventCreateWithFlags", device.runtime.cudaEventDisableTiming)
        self.event = _Owner(device, "cudaEventDestroy", created)

    def synchronize(self) -> None:
        self._device.call("cudaEventSynchronize", self.event.owned)


class _CudaStream(Stream):
    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        # Not ordered with the default stream, on which other libraries of the process may work.
        self._stream = device.call("cudaStreamCreateWithFlags", device.runtime.cudaStreamNonBlocking)
        self.handle = int(self._stream)
        self._owner = _Owner(device, "cudaStreamDestroy", self._stream)

    def upload(self, source: np.ndarray, address: int) -> None:
        kind = self._device.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._device.call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, self._stream)

    def download(self, address: int, target: np.ndarray) -> None:
        kind = self._device.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._device.call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, self._stream)

    def regroup(self, sources: Sequence[Source], target: Target) -> None:
        try:
            self._device.regroup(sources, target, self.handle)
        except RuntimeError as error:  # the plugins' binding knows nothing of our errors
            raise SkimError(f"{error}; start the process again, and if it stays run without CUDA graphs") from error

    def record(self, event: Event) -> None:
        assert isinstance(event, _CudaEvent)
        self._device.call("cudaEventRecord", event.event.owned, self._stream)

    def wait(self, event: Event) -> None:
        assert isinstance(event, _CudaEvent)
        self._device.call("cudaStreamWaitEvent", self._stream, event.event.owned, 0)

    def capture(self, work: Callable[[], None]) -> object:
        # Thread local: what other threads of the process do meanwhile does not break the capture.
        mode = self._device.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with _nothing_is_collected():
            self._device.call("cudaStreamBeginCapture", self._stream, mode)
            try:
                work()
            finally:
                # Also after an error of `work`, which is the one to tell but would leave the stream capturing.
                status, graph = self._device.runtime.cudaStreamEndCapture(self._stream)
        if int(status):
            raise SkimError(f"cudaStreamEndCapture: {_reason(self._device.runtime, status)}; run without CUDA graphs")
        template = _Owner(self._device, "cudaGraphDestroy", graph)
        return _Owner(
            self._device, "cudaGraphExecDestroy", self._device.call("cudaGraphInstantiate", template.owned, 0)
        )

    def launch(self, graph: object) -> None:
        assert isinstance(graph, _Owner)
        self._device.call("cudaGraphLaunch", graph.owned, self._stream)

    def synchronize(self) -> None:
        self._device.call("cudaStreamSynchronize", self._stream)


_CAPTURE = threading.Lock()


@contextmanager
def _nothing_is_collected() -> Iterator[None]:
    """Holds the garbage collector off during a capture, which breaks when a cycle is freed that owns device memory.

    One capture at a time: the collector is the whole process's, and the first to end would let it loose on the others.
    """
    with _CAPTURE:
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()


def _runtime() -> Any:
    from cuda.bindings import runtime

    return runtime


def _reason(runtime: Any, status: Any) -> str:
    return runtime.cudaGetErrorString(status)[1].decode()
