"""Which samples run together: the calls of least total cost that serve all samples waiting for a unit.

The runner takes a window of samples through unit after unit; between two units it asks here how to regroup what is
left, samples of different requests together, so that a batch pays for what its samples need and not for its longest
one. One engine's calls come one after another, while its weights are in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engines.buckets import Bucket, smallest_holding
from engines.plan import Plan

CALL_OVERHEAD = 16
"""What calling an engine costs beside its rows, in rows: some 0.2 ms, most of it weights that left the cache, against
0.01 to 0.02 ms a row and layer."""

Cost = Callable[[int, Bucket], float]
"""Of calling the engine of a unit and bucket, in any unit of time."""


@dataclass(frozen=True)
class Work:
    """One engine call: the bucket, and the numbers of the samples that fill it (at most `bucket.batch`)."""

    bucket: Bucket
    samples: tuple[int, ...]


def cost_in_rows(unit: int, bucket: Bucket) -> float:
    """The cost where none was measured: every row costs the same, whatever it holds."""
    return bucket.batch * bucket.length + CALL_OVERHEAD


def cost_in(plan: Plan) -> Cost:
    """The milliseconds that the planner expects of a call; in rows for the units that it knew no time of.

    Two engines are compared only where they run the same unit, of whose buckets either all have a time or none.
    """
    known = {
        (unit, bucket): milliseconds
        for unit, stage in enumerate(plan.stages)
        for bucket, milliseconds in zip(plan.buckets_of(unit), stage.milliseconds, strict=False)
    }
    return lambda unit, bucket: known.get((unit, bucket)) or cost_in_rows(unit, bucket)


class Scheduler:
    """The buckets of every unit and what their engines cost.

    buckets: per unit, what it is compiled for.
    """

    def __init__(self, buckets: Sequence[Sequence[Bucket]], cost: Cost = cost_in_rows) -> None:
        self._units = [
            _Unit([(cost(unit, bucket), bucket) for bucket in shapes]) for unit, shapes in enumerate(buckets)
        ]

    def calls(self, unit: int, rows: Sequence[int]) -> list[Work]:
        """The calls that run samples of these numbers of rows, longest first; every sample is in exactly one.

        Raises InputError when no bucket of the unit is long enough for a sample.
        """
        own = self._units[unit]
        lengths = [smallest_holding(n, own.lengths, f"stage {unit}: a sample of {n} rows") for n in rows]
        if len(rows) == 1:  # at batch 1 there is nothing to group, and every text pays for what is done here
            return [Work(own.engines[1, own.lengths.index(lengths[0])], (0,))]
        order = sorted(range(len(rows)), key=lambda sample: -lengths[sample])
        # Neighbours in length belong together, so calls are consecutive pieces, the longest sample first.
        longest = np.searchsorted(own.lengths, [lengths[sample] for sample in order])
        # least[i] is the cost of the first i samples and last[i] how many of them the last call runs.
        least, last = np.zeros(len(order) + 1), np.zeros(len(order) + 1, np.int64)
        sizes = np.arange(own.largest, 0, -1)
        for end in range(1, len(order) + 1):
            begin = max(0, end - own.largest)
            options = least[begin:end] + own.costs[sizes[begin - end :], longest[begin:end]]
            best = len(options) - 1 - int(options[::-1].argmin())
            least[end], last[end] = options[best], end - begin - best
        works, end = [], len(order)
        while end:
            size = int(last[end])
            works.append(Work(own.engines[size, int(longest[end - size])], tuple(order[end - size : end])))
            end -= size
        return works[::-1]


class _Unit:
    """The engines of a unit, and the cheapest one for every number of samples and longest length.

    costs: [samples, lengths], infinite where no engine takes them. engines: by samples and index in `lengths`.
    """

    def __init__(self, engines: Sequence[tuple[float, Bucket]]) -> None:
        self.lengths = sorted({bucket.length for _, bucket in engines})
        self.largest = max(bucket.batch for _, bucket in engines)
        self.costs = np.full((self.largest + 1, len(self.lengths)), np.inf)
        self.engines: dict[tuple[int, int], Bucket] = {}
        for size in range(1, self.largest + 1):
            for column, length in enumerate(self.lengths):
                fitting = [e for e in engines if e[1].batch >= size and e[1].length >= length]
                if fitting:
                    self.costs[size, column], self.engines[size, column] = min(fitting)
