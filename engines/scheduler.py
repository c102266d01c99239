"""Which samples run together: the calls of least total cost that serve all samples waiting for a unit.

Pure policy over numbers. The runner takes a window of samples through unit after unit; between two units it asks here
how to regroup what is left, samples of different requests together, so that a batch pays for what its samples need and
not for its longest one. One engine's calls come one after another, while its weights are in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engines.buckets import Bucket, smallest_holding

CALL_OVERHEAD = 16
"""What calling an engine costs beside its rows, in rows: some 0.2 ms, most of it weights that left the cache, against
0.01 to 0.02 ms a row and layer."""

Cost = Callable[[int, Bucket], float]
"""Of calling the engine of a unit and bucket, in any unit of time."""


@dataclass(frozen=True)
class Work:
    """One engine call: the bucket, and the places of the samples that fill it (at most `bucket.batch`)."""

    bucket: Bucket
    samples: tuple[int, ...]


def cost_in_rows(unit: int, bucket: Bucket) -> float:
    """The cost where none was measured: every row costs the same, whatever it holds."""
    return bucket.batch * bucket.length + CALL_OVERHEAD


class Scheduler:
    """The buckets of every unit and what their engines cost.

    buckets: per unit, what it is compiled for.
    """

    def __init__(self, buckets: Sequence[Sequence[Bucket]], cost: Cost = cost_in_rows) -> None:
        self._units = [_Unit([(cost(unit, bucket), bucket) for bucket in held]) for unit, held in enumerate(buckets)]

    def calls(self, unit: int, rows: Sequence[int]) -> list[Work]:
        """The calls that run samples of so many rows each, longest first; every sample is in exactly one.

        Raises InputError when no bucket of the unit is long enough for a sample.
        """
        held = self._units[unit]
        lengths = [smallest_holding(n, held.lengths, f"stage {unit}: a sample of {n} rows") for n in rows]
        order = sorted(range(len(rows)), key=lambda sample: -lengths[sample])
        # Neighbours in length belong together, so calls are consecutive pieces. best[i] serves the first i samples:
        # its cost, and the size and bucket of its last call.
        best: list[tuple[float, int, Bucket | None]] = [(0.0, 0, None)]
        for end in range(1, len(order) + 1):
            options = []
            for size in range(1, min(end, held.largest) + 1):
                longest = lengths[order[end - size]]
                if (engine := held.cheapest.get((size, longest))) is not None:
                    options.append((best[end - size][0] + engine[0], size, engine[1]))
            best.append(min(options, key=lambda option: option[0]))
        works, end = [], len(order)
        while end:
            _, size, bucket = best[end]
            assert bucket is not None
            works.append(Work(bucket, tuple(order[end - size : end])))
            end -= size
        return works[::-1]


class _Unit:
    """The engines of a unit, and the cheapest of them that takes so many samples of at most such a length."""

    def __init__(self, engines: Sequence[tuple[float, Bucket]]) -> None:
        self.lengths = sorted({bucket.length for _, bucket in engines})
        self.largest = max(bucket.batch for _, bucket in engines)
        self.cheapest: dict[tuple[int, int], tuple[float, Bucket]] = {}
        for size in range(1, self.largest + 1):
            for length in self.lengths:
                fitting = [e for e in engines if e[1].batch >= size and e[1].length >= length]
                if fitting:
                    self.cheapest[size, length] = min(fitting)
