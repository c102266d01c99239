"""Stand-ins for the modules cuda.bindings.runtime and tensorrt, over a device of host memory.

They return what the real ones return (a tuple that starts with a status; False for a refusal) and refuse what CUDA
refuses: copies from memory that is not pinned, allocations and frees during a capture, unknown addresses.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from engines.backends.device import Tensor
from engines.buckets import Bucket
from engines.errors import SkimError
from tests.engines.host_device import HostDevice, HostEvent, HostExecutable, HostExecution, HostStream

GARBAGE = 0xA5


class Status(enum.IntEnum):
    """cudaError_t."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class Handle:
    """A stream, event or graph: an object with an address."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __int__(self) -> int:
        return self.value.handle


class FakeRuntime:
    """cuda.bindings.runtime. `failing` names a function to the status that it returns from now on."""

    cudaError_t = Status
    cudaStreamNonBlocking, cudaEventDisableTiming = 1, 2
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread local")

    def __init__(self, host: HostDevice, devices: int = 1) -> None:
        self.host, self.devices = host, devices
        self.failing: dict[str, Status] = {}
        self.alive: dict[str, dict[int, Any]] = {"device": {}, "pinned": {}, "handles": {}}
        self.invalidated = False
        self._default = HostStream(host, 0)
        host.streams.append(self._default)

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        failing = object.__getattribute__(self, "__dict__").get("failing", {})
        return (lambda *_: (failing[name], None)) if name in failing else found

    def cudaGetDeviceCount(self):
        return Status.cudaSuccess, self.devices

    def cudaGetErrorString(self, status):
        return Status.cudaSuccess, status.name.encode()

    def cudaSetDevice(self, device):
        return (Status.cudaSuccess if device < self.devices else Status.cudaErrorNoDevice,)

    def cudaMalloc(self, nbytes):
        return self._allocate("device", nbytes)

    def cudaMallocHost(self, nbytes):
        return self._allocate("pinned", nbytes)

    def _breaks_a_capture(self) -> bool:
        """Whether a stream is captured; then the capture is worth nothing any more."""
        capturing = any(stream.capturing is not None for stream in self.host.streams)
        self.invalidated |= capturing
        return capturing

    def _allocate(self, kind: str, nbytes: int):
        if self._breaks_a_capture():
            return Status.cudaErrorStreamCaptureUnsupported, None
        memory = np.full(nbytes + 256, GARBAGE, np.uint8)
        start = -memory.ctypes.data % 256
        address = memory.ctypes.data + start
        self.alive[kind][address] = memory[start : start + nbytes]
        return Status.cudaSuccess, address

    def cudaFree(self, address):
        return self._free("device", address)

    def cudaFreeHost(self, address):
        return self._free("pinned", address)

    def _free(self, kind: str, address: int):
        if self._breaks_a_capture():
            return (Status.cudaErrorStreamCaptureUnsupported,)
        del self.alive[kind][address]
        return (Status.cudaSuccess,)

    def cudaMemset(self, address, value, nbytes):
        memory = self.alive["device"][address]
        self._default.put(lambda: memory.fill(value))
        return (Status.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        return self._new(self.host.stream())

    def cudaEventCreateWithFlags(self, flags):
        assert flags == self.cudaEventDisableTiming
        return self._new(self.host.event())

    def _new(self, value: Any):
        handle = Handle(value)
        self.alive["handles"][id(handle)] = handle
        return Status.cudaSuccess, handle

    def _destroy(self, handle):
        del self.alive["handles"][id(handle)]
        return (Status.cudaSuccess,)

    cudaStreamDestroy = cudaEventDestroy = cudaGraphDestroy = cudaGraphExecDestroy = _destroy

    def cudaEventSynchronize(self, event):
        event.value.synchronize()
        return (Status.cudaSuccess,)

    def cudaEventRecord(self, event, stream):
        assert isinstance(event.value, HostEvent)
        stream.value.record(event.value)
        return (Status.cudaSuccess,)

    def cudaStreamWaitEvent(self, stream, event, flags):
        assert flags == 0
        stream.value.wait(event.value)
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):
        (self._default if stream == 0 else stream.value).synchronize()
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(self, target, source, nbytes, kind, stream):
        host, device = (source, target) if kind == "up" else (target, source)
        view = self._inside("pinned", host, nbytes)
        if view is None or self._inside("device", device, nbytes) is None:
            return (Status.cudaErrorInvalidValue,)
        if kind == "up":
            stream.value.upload(view, target)
        else:
            stream.value.download(source, view)
        return (Status.cudaSuccess,)

    def _inside(self, kind: str, address: int, nbytes: int) -> np.ndarray | None:
        """The bytes at an address, None unless they lie in one allocation of the kind."""
        for start, memory in self.alive[kind].items():
            if start <= address and address + nbytes <= start + len(memory):
                return memory[address - start : address - start + nbytes]
        return None

    def cudaStreamBeginCapture(self, stream, mode):
        assert mode == "thread local"
        stream.value.capturing, self.invalidated = [], False
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):
        graph, stream.value.capturing = stream.value.capturing, None
        return (Status.cudaErrorStreamCaptureInvalidated, None) if self.invalidated else self._new(graph)

    def cudaGraphInstantiate(self, graph, flags):
        assert flags == 0
        return self._new(list(graph.value))

    def cudaGraphLaunch(self, graph, stream):
        stream.value.launch(graph.value)
        return (Status.cudaSuccess,)


class FakeTensorRt:
    """The module tensorrt, as far as running an engine needs it."""

    DataType = enum.Enum("DataType", "FLOAT HALF BF16 INT32 INT64")
    TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")
    ExecutionContextAllocationStrategy = enum.Enum("ExecutionContextAllocationStrategy", "STATIC USER_MANAGED")


def all_tensors(executable: HostExecutable) -> dict[str, Tensor]:
    """Inputs and outputs by name."""
    return {**executable.inputs, **executable.outputs}


class FakeCudaEngine:
    """An ICudaEngine over ordinary profiles, one for each bucket; `refusing` is what its contexts refuse.

    As in TensorRT, a shape is open wherever two profiles differ.
    """

    name = "stage"

    def __init__(self, executables: Mapping[Bucket, HostExecutable], refusing: str = "", **changed: Tensor) -> None:
        self.executables, self.refusing = list(executables.values()), refusing
        first = self.executables[0]
        self.inputs = set(first.inputs)
        self._tensors = {name: tensor._replace(shape=self._open(name)) for name, tensor in all_tensors(first).items()}
        self._tensors |= changed

    def _open(self, name: str) -> tuple[int, ...]:
        shapes = [all_tensors(executable)[name].shape for executable in self.executables]
        return tuple(sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True))

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.executables)

    def get_tensor_profile_shape(self, name: str, place: int) -> list[tuple[int, ...]]:
        shape = list(self.executables[place].inputs[name].shape)
        return [tuple(shape), tuple(shape), tuple(shape if self.refusing != "ranges" else [9 * shape[0], *shape[1:]])]

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def get_tensor_dtype(self, name: str):
        names = {"float32": "FLOAT", "float16": "HALF", "uint16": "BF16", "int32": "INT32", "int64": "INT64"}
        return FakeTensorRt.DataType[names[self._tensors[name].dtype.name]]

    def get_tensor_mode(self, name: str):
        return FakeTensorRt.TensorIOMode["INPUT" if name in self.inputs else "OUTPUT"]

    def get_device_memory_size_for_profile_v2(self, place: int) -> int:
        return self.executables[place].scratch_bytes

    def create_execution_context(self, strategy):
        assert strategy is FakeTensorRt.ExecutionContextAllocationStrategy.USER_MANAGED
        return None if self.refusing == "contexts" else FakeExecutionContext(self)


class FakeExecutionContext:
    """An IExecutionContext."""

    def __init__(self, engine: FakeCudaEngine) -> None:
        self._engine, self._memory = engine, (0, 0)
        self._execution: HostExecution | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        self._memory = memory, size

    def set_optimization_profile_async(self, place: int, stream: int) -> bool:
        memory, size = self._memory
        executable = self._engine.executables[place]
        assert stream and size >= executable.scratch_bytes
        self._execution = executable.execution(memory, stream)
        return self._engine.refusing != "profiles"

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._execution is not None
        self._shapes[name] = tuple(shape)
        return self._execution.executable.inputs[name].shape == tuple(shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        if self._engine.refusing == "addresses":
            return False
        assert self._execution is not None
        self._execution.bind(name, address)
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self._engine.refusing == "runs":
            return False
        assert self._execution is not None and set(self._shapes) == self._engine.inputs
        try:
            self._execution.enqueue(stream)
        except SkimError:
            return False
        return True
