"""A profile of an engine on a GPU: its buffers, and one call of it (copies and all) as one CUDA graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

import numpy as np

from engines.backends.base import Arrays, Profile
from engines.backends.device import Device, DeviceArray, Executable, Stream, Tensor

_ALIGNMENT = 256
"""Of every tensor in a block, in bytes: what CUDA's own allocations have."""


class DeviceProfile(Profile):
    """A profile on a GPU. Through `inputs` and `run` it takes and returns host arrays, all of them copied each time.

    The stage runner asks for contexts instead, whose hidden states stay on the device.
    """

    def __init__(self, device: Device, executable: Executable) -> None:
        self.device, self.executable = device, executable

    def context(self, lane: Lane, resident: Collection[str] = (), graphs: bool = True) -> ProfileContext:
        """A new context on a lane; the tensors named `resident` stay on the device."""
        return ProfileContext(self.device, self.executable, lane, resident, graphs)

    @cached_property
    def _whole(self) -> ProfileContext:
        return self.context(Lane(self.device))

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:  # type: ignore[override]
        """The input buffers, in pinned memory."""
        return self._whole.inputs

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.executable.inputs.items()}

    def run(self) -> Arrays:
        self._whole.launch()
        self._whole.done.synchronize()
        return self._whole.outputs

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """As of any profile; where it has bfloat16, takes and returns float32."""
        narrow = {name for name, buffer in self.inputs.items() if buffer.dtype == np.uint16}
        found = super().__call__({n: _to_bfloat16(v) if n in narrow else v for n, v in inputs.items()})
        return {n: _from_bfloat16(v) if v.dtype == np.uint16 else v for n, v in found.items()}


class Lane:
    """A stream, and the memory for activations that its calls, one after the other, all use."""

    def __init__(self, device: Device) -> None:
        self.stream = device.stream()
        self._device, self._scratch = device, DeviceArray(0, Tensor((0,), np.dtype(np.uint8)), None)

    def scratch(self, nbytes: int) -> DeviceArray:
        """Scratch memory of at least `nbytes`. It only grows: graphs hold the address that their context was given."""
        if self._scratch.tensor.nbytes < nbytes:
            self._scratch = self._device.array(Tensor((nbytes,), np.dtype(np.uint8)))
        return self._scratch


class ProfileContext:
    """One execution context with buffers of its own, at addresses that never change, and the graph of a call.

    inputs, outputs:   pinned host arrays of the tensors that are copied, in one copy each way.
    arrays:            every tensor on the device, also those that are not copied.
    done:              the event behind the last call's copies.
    """

    def __init__(
        self, device: Device, executable: Executable, lane: Lane, resident: Collection[str], graphs: bool
    ) -> None:
        self.stream, self.done = lane.stream, device.event()
        self._scratch = lane.scratch(executable.scratch_bytes)
        self._execution = executable.execution(self._scratch.address, lane.stream.handle)
        self.arrays: dict[str, DeviceArray] = {}
        self._up = _Block(device, {n: t for n, t in executable.inputs.items() if n not in resident})
        self._down = _Block(device, {n: t for n, t in executable.outputs.items() if n not in resident})
        self.inputs, self.outputs = self._up.host, self._down.host
        for name, tensor in {**executable.inputs, **executable.outputs}.items():
            block = self._up if name in self._up.arrays else self._down
            self.arrays[name] = block.arrays[name] if name in block.arrays else device.array(tensor)
            self._execution.bind(name, self.arrays[name].address)
        # A capture must find the engine warm: its first run may allocate, which no graph can hold.
        self._queue()
        self.stream.synchronize()
        self._graph = self.stream.capture(self._queue) if graphs else None

    def launch(self) -> None:
        """Queues a call on what `inputs`, and the resident inputs on the device, hold."""
        if self._graph is None:
            self._queue()
        else:
            self.stream.launch(self._graph)
        self.stream.record(self.done)

    def _queue(self) -> None:
        self._up.upload(self.stream)
        self._execution.enqueue(self.stream.handle)
        self._down.download(self.stream)


class _Block:
    """Tensors side by side on the device and in pinned memory, so that one copy moves them all."""

    def __init__(self, device: Device, tensors: Mapping[str, Tensor]) -> None:
        self.arrays: dict[str, DeviceArray] = {}
        self.host: dict[str, np.ndarray] = {}
        self._nbytes = sum(_padded(tensor.nbytes) for tensor in tensors.values())
        if not self._nbytes:
            return
        self._pinned = device.pinned(self._nbytes)
        self._address, owner = device.allocate(self._nbytes)
        start = 0
        for name, tensor in tensors.items():
            self.arrays[name] = DeviceArray(self._address + start, tensor, owner)
            self.host[name] = self._pinned[start : start + tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)
            start += _padded(tensor.nbytes)

    def upload(self, stream: Stream) -> None:
        if self._nbytes:
            stream.upload(self._pinned, self._address)

    def download(self, stream: Stream) -> None:
        if self._nbytes:
            stream.download(self._address, self._pinned)


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of float32 values rounded to bfloat16, to nearest and ties to even. Values must be finite."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
