"""Finds the plan with the least expected time, by dynamic programming over cuts and bucket lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

StageCost = Callable[[int, int, int], float]
"""Maps (first point, last point, length) to the time of one sample in that stage's bucket of that length."""


@dataclass(frozen=True)
class Problem:
    """The input of the search.

    rows:    [samples, points] rows that a sample has at every point where a stage may begin: point 0 is the input,
             the others are the decisions, in order. The point behind the last one is the output.
    lengths: candidate bucket lengths, ascending; the last holds every input, and so does a bucket of every stage.
    cost:    of a stage between two points.
    profiles: how many (stage, length) pairs there may be.
    price:   the time of a sample that each of them has to save.
    """

    rows: np.ndarray
    lengths: Sequence[int]
    cost: StageCost
    profiles: int
    price: float = 0.0

    @property
    def points(self) -> int:
        """Number of points where a stage may begin."""
        return self.rows.shape[1]

    @cached_property
    def within(self) -> np.ndarray:
        """[points, lengths]: the number of samples that fit into each length at each point."""
        return (self.rows[:, :, None] <= np.asarray(self.lengths)).sum(0)


@dataclass(frozen=True)
class Solution:
    """The chosen stages.

    starts:   the point where each stage begins; the first is 0.
    lengths:  the bucket lengths of each stage.
    expected: mean time of a sample, in the unit of the problem's costs.
    """

    starts: tuple[int, ...]
    lengths: tuple[tuple[int, ...], ...]
    expected: float


def solve(problem: Problem) -> Solution:
    """The solution of least expected time and price; the one with fewer stages and then fewer profiles among equals.

    Raises ValueError when not even one profile is allowed.
    """
    if problem.profiles < 1:
        raise ValueError(f"profiles: expected at least 1, found {problem.profiles}")
    end, limit = problem.points, problem.profiles
    samples = len(problem.rows)
    # least[p][e]: stages from the input to point p with e profiles; how[p][e]: the last stage's start and lengths.
    least = np.full((end + 1, limit + 1), np.inf)
    least[0, 0] = 0.0
    how: list[list[tuple[int, int] | None]] = [[None] * (limit + 1) for _ in range(end + 1)]
    for last in range(1, end + 1):
        for first in range(last):
            costs, _ = _best_lengths(problem, first, last)
            for count in range(1, min(len(costs) - 1, limit) + 1):
                total = least[first, : limit + 1 - count] + costs[count]
                # A later stage start never wins a tie, so equal plans have fewer stages.
                better = total < least[last, count:] - 1e-12 * abs(costs[count])
                for used in np.flatnonzero(better).tolist():
                    least[last, used + count] = total[used]
                    how[last][used + count] = (first, count)
    used, point = int(np.argmin(least[end] + samples * problem.price * np.arange(limit + 1))), end
    expected = float(least[end, used]) / samples
    starts: list[int] = []
    lengths: list[tuple[int, ...]] = []
    while point:
        step = how[point][used]
        assert step is not None
        first, count = step
        starts.append(first)
        lengths.append(_chosen(problem, first, point, count))
        point, used = first, used - count
    return Solution(tuple(starts[::-1]), tuple(lengths[::-1]), expected)


def expected_time(problem: Problem, starts: Sequence[int], lengths: Sequence[Sequence[int]]) -> float:
    """Returns the mean time of a sample under a plan: each stage runs it in the shortest bucket that fits."""
    total = np.zeros(len(problem.rows))
    for first, last, stage_lengths in zip(starts, [*starts[1:], problem.points], lengths, strict=True):
        ordered = np.sort(np.asarray(stage_lengths))
        costs = np.array([problem.cost(first, last, int(length)) for length in ordered])
        total += costs[np.searchsorted(ordered, problem.rows[:, first])]
    return float(total.mean())


def _best_lengths(problem: Problem, first: int, last: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns, by number of lengths, the least total time of a stage and the choices that lead to it."""
    cost = np.array([problem.cost(first, last, length) for length in problem.lengths])
    fitting, size = problem.within[first], len(problem.lengths)
    # The samples between two neighbouring lengths, if no length lies between, all run in the longer one.
    between = np.where(np.tri(size, k=-1, dtype=bool), (fitting[:, None] - fitting[None, :]) * cost[:, None], np.inf)
    best = fitting * cost
    totals, choices = [np.inf, best[-1]], [np.full(size, -1)]
    for _ in range(1, min(size, problem.profiles)):
        through = between + best[None, :]
        choices.append(through.argmin(1))
        best = through.min(1)
        totals.append(best[-1])
    return np.array(totals), choices


def _chosen(problem: Problem, first: int, last: int, count: int) -> tuple[int, ...]:
    _, choices = _best_lengths(problem, first, last)
    index, chosen = len(problem.lengths) - 1, []
    for step in range(count - 1, -1, -1):
        chosen.append(problem.lengths[index])
        index = int(choices[step][index])
    return tuple(chosen[::-1])
