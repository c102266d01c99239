"""What running on a GPU asks of it: memory, streams, events and graphs; and of what is compiled for it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from plugins.regroup.binding import Source, Target


class Tensor(NamedTuple):
    """Static shape and type of a profile's input or output. bfloat16, which numpy lacks, is uint16: its bits."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the dense array."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class DeviceArray:
    """A dense array in device memory; `owner` keeps that memory."""

    address: int
    tensor: Tensor
    owner: object = field(repr=False, compare=False)


class Event(ABC):
    """A point in a stream's work."""

    @abstractmethod
    def synchronize(self) -> None:
        """Lets this thread wait until the device has passed where the event was last recorded."""


class Stream(ABC):
    """A queue of work for the device, in order. Only `synchronize` waits; what is queued must stay as it is till then.

    handle: its address, for libraries that queue work of their own.
    """

    handle: int

    @abstractmethod
    def upload(self, source: np.ndarray, address: int) -> None:
        """Queues a copy from pinned memory to the device."""

    @abstractmethod
    def download(self, address: int, target: np.ndarray) -> None:
        """Queues a copy from the device to pinned memory."""

    @abstractmethod
    def regroup(self, sources: Sequence[Source], target: Target) -> None:
        """Queues a call of skimrt_regroup."""

    @abstractmethod
    def record(self, event: Event) -> None:
        """Sets the event to what is queued so far."""

    @abstractmethod
    def wait(self, event: Event) -> None:
        """What is queued from here on starts after the event as it was last recorded."""

    @abstractmethod
    def capture(self, work: Callable[[], None]) -> object:
        """The graph of what `work` queues on this stream, which is not run. `work` must have run here once."""

    @abstractmethod
    def launch(self, graph: object) -> None:
        """Queues a graph as one piece of work."""

    @abstractmethod
    def synchronize(self) -> None:
        """Lets this thread wait for all that is queued."""


class Device(ABC):
    """A GPU. Memory that it hands out is zero, and free again when nothing refers to it."""

    @abstractmethod
    def allocate(self, nbytes: int) -> tuple[int, object]:
        """Device memory: its address, aligned for any access, and the owner that keeps it."""

    @abstractmethod
    def pinned(self, nbytes: int) -> np.ndarray:
        """Host memory [nbytes] uint8 that the device copies from and to without a detour."""

    @abstractmethod
    def stream(self) -> Stream:
        """A new stream; never the default one, which cannot be captured."""

    @abstractmethod
    def event(self) -> Event:
        """A new event."""

    def array(self, tensor: Tensor) -> DeviceArray:
        """A new array."""
        address, owner = self.allocate(tensor.nbytes)
        return DeviceArray(address, tensor, owner)


class Execution(Protocol):
    """One execution context of a profile: what it is bound to, and how it gets onto a stream."""

    def bind(self, name: str, address: int) -> None:
        """Where a tensor lies from now on."""

    def enqueue(self, stream: int) -> None:
        """Queues one run on the stream of that handle. Raises SkimError when it is refused."""


class Executable(Protocol):
    """A profile of a compiled engine, whose shapes are static."""

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """The input tensors by name."""

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """The output tensors by name."""

    @property
    def scratch_bytes(self) -> int:
        """Memory that a run needs for activations."""

    def execution(self, scratch: int, stream: int) -> Execution:
        """A new execution context, set up on the stream of that handle; its runs use the memory at `scratch`."""
