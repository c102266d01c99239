"""The planner finds what trying everything finds, and stays fast where trying everything is hopeless."""

from __future__ import annotations

import itertools
import time
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.planning.search import Problem, expected_time, solve


def least_time(problem: Problem) -> float:
    """Engines' price included: tries every choice of cuts, of the number of lengths of every stage, and of so many."""
    *shorter, longest = problem.lengths

    @cache
    def stage(first: int, last: int, count: int) -> float:
        sets = itertools.combinations(shorter, count - 1)
        return min(expected_time(alone(problem, first, last), (0,), ((*some, longest),)) for some in sets)

    least = float("inf")
    for cuts in range(problem.points):
        for inner in itertools.combinations(range(1, problem.points), cuts):
            ends = list(zip((0, *inner), (*inner, problem.points), strict=True))
            for counts in itertools.product(range(1, len(problem.lengths) + 1), repeat=len(ends)):
                if sum(counts) <= problem.profiles:
                    spent = sum(stage(*end, count) for end, count in zip(ends, counts, strict=True))
                    least = min(least, spent + problem.price * sum(counts))
    return least


def alone(problem: Problem, first: int, last: int) -> Problem:
    """The problem of one stage of a problem."""
    return Problem(
        problem.rows[:, first : first + 1], problem.lengths, lambda _, __, n: problem.cost(first, last, n), 99
    )


@st.composite
def problems(draw: st.DrawFn, layers: int, most: int) -> Problem:
    """Retention that falls from point to point, and any cost whatever."""
    lengths = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=most)))
    points = draw(st.integers(1, layers))
    sample = st.lists(st.integers(1, lengths[-1]), min_size=points, max_size=points)
    rows = np.array([sorted(row, reverse=True) for row in draw(st.lists(sample, min_size=1, max_size=6))])
    seed = draw(st.integers(0, 2**20))

    def cost(first: int, last: int, length: int) -> float:
        return float(np.random.default_rng((seed, first, last, length)).integers(1, 50))

    return Problem(rows, lengths, cost, draw(st.integers(1, 12)), draw(st.sampled_from([0.0, 0.5, 5.0])))


def check(problem: Problem) -> None:
    solution = solve(problem)
    least = least_time(problem)
    assert solution.expected + problem.price * sum(map(len, solution.lengths)) == pytest.approx(least)
    assert expected_time(problem, solution.starts, solution.lengths) == pytest.approx(solution.expected)
    assert sum(map(len, solution.lengths)) <= problem.profiles
    assert all(lengths[-1] == problem.lengths[-1] for lengths in solution.lengths)


@settings(max_examples=100, deadline=None)
@given(problems(layers=6, most=6))
def test_equals_exhaustive_search(problem: Problem) -> None:
    check(problem)


def test_no_cut_where_calls_cost_more_than_rows() -> None:
    rows = np.array([[64, 32, 16]] * 5)
    by_rows = solve(Problem(rows, (16, 32, 64), lambda first, last, length: (last - first) * length, 9))
    by_calls = solve(Problem(rows, (16, 32, 64), lambda first, last, length: 1000 + (last - first) * length, 9))
    assert by_rows.starts == (0, 1, 2) and by_rows.expected == 64 + 32 + 16
    assert by_calls.starts == (0,) and by_calls.expected == 1000 + 3 * 64


def test_the_limit_on_engines_decides_between_cuts_and_lengths() -> None:
    rows = np.array([[64, 16], [32, 16]])
    problem = [Problem(rows, (16, 32, 64), lambda first, last, length: (last - first) * length, n) for n in range(1, 5)]
    assert [solve(p).expected for p in problem] == [128, 96, 80, 64]
    with pytest.raises(ValueError, match="at least 1"):
        solve(Problem(rows, (64,), lambda *_: 1.0, 0))


def test_24_layers_and_16_lengths_take_less_than_five_seconds() -> None:
    rng = np.random.default_rng(0)
    rows = np.sort(rng.integers(1, 513, (1000, 24)))[:, ::-1]
    lengths = tuple(range(32, 513, 32))
    started = time.process_time()
    solution = solve(Problem(rows, lengths, lambda first, last, length: 5 + (last - first) * length, 100))
    assert time.process_time() - started < 5
    assert len(solution.starts) > 1
