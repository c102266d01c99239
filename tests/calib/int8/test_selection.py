"""INT8 engines are used where they are faster, by a clock that the tests turn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from calib.int8.selection import choose_profiles
from engines.backends import Profile
from engines.backends.base import Arrays
from engines.buckets import Bucket

BUCKET = Bucket(batch=2, length=4)


class Clock:
    """A clock that only engines move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TimedProfile(Profile):
    """Takes the next of its durations in every run."""

    def __init__(self, clock: Clock, durations: Iterator[float]) -> None:
        self.clock, self.durations = clock, durations
        self.inputs = {"hidden": np.zeros((2, 4, 3), np.float32), "alive": np.zeros((2, 4), np.int32)}

    def run(self) -> Arrays:
        assert self.inputs["alive"].all() and not self.inputs["hidden"].any()  # a full bucket
        self.clock.now += next(self.durations)
        return {}


def repeated(*values: float) -> Iterator[float]:
    """The values over and over."""
    while True:
        yield from values


def choices(*pairs: tuple[Iterator[float], Iterator[float]]):
    """What is chosen among engines of these durations: wide, INT8."""
    clock = Clock()

    timed = ([TimedProfile(clock, durations) for durations in pair] for pair in pairs)
    return choose_profiles([(n, BUCKET, wide, int8) for n, (wide, int8) in enumerate(timed)], clock)


def test_the_faster_engine_is_taken_in_each_bucket_and_the_reason_given() -> None:
    fast, slow, same = choices(
        (repeated(3.0), repeated(1.5)), (repeated(1.0), repeated(1.25)), (repeated(1.0), repeated(1.0))
    )
    assert fast.int8 and fast.speedup == 2 and fast.reason is None and fast.bucket == BUCKET
    assert not slow.int8 and slow.reason == "takes 1.25 times as long as the wider precision"
    assert not same.int8  # nothing is gained by it
    assert [choice.stage for choice in (fast, slow, same)] == [0, 1, 2]


def test_a_first_slow_run_and_outliers_do_not_decide() -> None:
    slow_start = iter([500.0, 500.0] + [1.0] * 20)
    (choice,) = choices((repeated(2.0, 2.0, 2.0, 0.001), slow_start))
    assert choice.speedup == pytest.approx(2.0)
