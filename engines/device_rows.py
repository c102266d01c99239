"""Where samples' rows lie on a device between two stages, and how they are moved: by the regroup kernel only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakSet

from engines.backends.device import Device, DeviceArray, Stream
from plugins.regroup.binding import Source, Target


class Rows:
    """Rows of several samples on the device: hidden [B, S, D], alive and position [B, S] int32.

    residents: the samples whose rows lie here. One leaves when its sample moves on or is given up, because nothing
    else refers to it.
    """

    def __init__(self, hidden: DeviceArray, alive: DeviceArray, position: DeviceArray) -> None:
        self.hidden, self.alive, self.position = hidden, alive, position
        self.residents: WeakSet[Resident] = WeakSet()

    @property
    def batch(self) -> int:
        """Samples that there is room for."""
        return self.hidden.tensor.shape[0]

    @property
    def length(self) -> int:
        """Rows of a sample."""
        return self.hidden.tensor.shape[1]

    def hold(self, index: int, count: int) -> Resident:
        """Keeps the first `count` rows of the sample at `index`."""
        resident = Resident(self, index, count)
        self.residents.add(resident)
        return resident

    @property
    def target(self) -> Target:
        """All of it, as the target of a regroup."""
        row_bytes = self.hidden.tensor.nbytes // (self.batch * self.length)
        addresses = (array.address for array in (self.hidden, self.alive, self.position))
        return Target(*addresses, batch=self.batch, length=self.length, row_bytes=row_bytes)


@dataclass(eq=False)
class Resident:
    """The rows of one sample: the first `count` of `rows[index]`."""

    rows: Rows
    index: int
    count: int

    @property
    def source(self) -> Source:
        """The sample, as a source of a regroup."""
        rows = self.rows
        addresses = (array.address for array in (rows.hidden, rows.alive, rows.position))
        return Source(*addresses, sample=self.index, length=rows.length)


class Mover:
    """Moves rows between engines' buffers, all on one stream of its own.

    That keeps the moves in order among themselves. An engine's call waits for the moves in front of it (`let_wait`)
    before it reads what they wrote and before it overwrites what they read; the host has seen the end of every call
    whose outputs are moved.
    """

    def __init__(self, device: Device) -> None:
        self._device, self._stream, self._moved = device, device.stream(), device.event()
        self._parking: list[Rows] = []

    def gather(self, samples: Sequence[Resident], into: Rows) -> None:
        """Fills `into` with these samples, in order; what is left over is cleared."""
        self._regroup([sample.source for sample in samples], into)

    def park(self, rows: Rows) -> None:
        """Moves the samples that still lie in `rows` elsewhere, because an engine is about to write there."""
        staying = list(rows.residents)
        if not staying:
            return
        parking = self._free_parking(rows)
        sources = [Source() for _ in range(rows.batch)]
        for sample in staying:
            sources[sample.index] = sample.source
        self._regroup(sources, parking)
        for sample in staying:
            sample.rows = parking
            parking.residents.add(sample)
        rows.residents.clear()

    def let_wait(self, stream: Stream) -> None:
        """What `stream` is given from here on starts after all moves so far."""
        self._stream.record(self._moved)
        stream.wait(self._moved)

    def _free_parking(self, like: Rows) -> Rows:
        """Rows of the same shape that nobody is in: parked before and left, or new."""
        for rows in self._parking:
            if rows.hidden.tensor == like.hidden.tensor and not rows.residents:
                return rows
        arrays = (self._device.array(array.tensor) for array in (like.hidden, like.alive, like.position))
        self._parking.append(Rows(*arrays))
        return self._parking[-1]

    def _regroup(self, sources: list[Source], into: Rows) -> None:
        sources += [Source() for _ in range(into.batch - len(sources))]
        self._stream.regroup(sources, into.target)
