"""The scheduler's promises: nothing is lost or overflows, and no other way of batching costs less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.buckets import Bucket, parse_buckets
from engines.errors import InputError
from engines.plan import Plan, StagePlan
from engines.scheduler import CALL_OVERHEAD, Scheduler, Work, cost_in, cost_in_rows

BUCKETS = parse_buckets("1x16,1x32,1x64,8x16,8x32,8x64")
ROWS = st.integers(1, 64)


@st.composite
def bucket_sets(draw: st.DrawFn) -> list[Bucket]:
    """Any buckets whose longest length is 64; batch sizes may differ by length."""
    lengths = draw(st.sets(st.integers(1, 63), max_size=3)) | {64}
    batches = st.sets(st.integers(1, 5), min_size=1, max_size=2)
    return [Bucket(batch=batch, length=length) for length in sorted(lengths) for batch in sorted(draw(batches))]


def calls(*rows: int, buckets: Sequence[Bucket] = BUCKETS) -> list[Work]:
    return Scheduler([buckets]).calls(0, rows)


def total(works: Sequence[Work]) -> float:
    return sum(cost_in_rows(0, work.bucket) for work in works)


@given(st.lists(ROWS, max_size=40), bucket_sets())
def test_every_sample_runs_exactly_once_in_a_bucket_that_holds_it(rows: list[int], buckets: list[Bucket]) -> None:
    works = calls(*rows, buckets=buckets)
    assert sorted(sample for work in works for sample in work.samples) == list(range(len(rows)))
    for work in works:
        assert 1 <= len(work.samples) <= work.bucket.batch and work.bucket in buckets
        assert all(rows[sample] <= work.bucket.length for sample in work.samples)


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """All ways to cut a set into groups."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for others in partitions(rest):
        yield [[first], *others]
        for place in range(len(others)):
            yield [*others[:place], [first, *others[place]], *others[place + 1 :]]


@given(st.lists(ROWS, min_size=1, max_size=6), bucket_sets(), st.randoms(use_true_random=False))
def test_no_way_of_batching_costs_less(rows: list[int], buckets: list[Bucket], random) -> None:
    cost = {bucket: random.randint(1, 50) for bucket in buckets}

    def cheapest(group: list[int]) -> float:
        fitting = [b for b in buckets if b.batch >= len(group) and b.length >= max(rows[s] for s in group)]
        return min((cost[bucket] for bucket in fitting), default=float("inf"))

    works = Scheduler([buckets], lambda _, bucket: cost[bucket]).calls(0, rows)
    least = min(sum(map(cheapest, groups)) for groups in partitions(list(range(len(rows)))))
    assert sum(cost[work.bucket] for work in works) == least


@given(st.lists(ROWS, max_size=60))
def test_calls_of_one_engine_come_one_after_another(rows: list[int]) -> None:
    lengths = [work.bucket.length for work in calls(*rows)]
    assert lengths == sorted(lengths, reverse=True)


def test_units_may_have_buckets_and_costs_of_their_own() -> None:
    buckets = [parse_buckets("1x64,4x64"), parse_buckets("1x16,1x64")]
    scheduler = Scheduler(buckets, lambda unit, bucket: 1.0)
    assert scheduler.calls(0, [10] * 4) == [Work(Bucket(batch=4, length=64), (0, 1, 2, 3))]
    assert [work.bucket.batch for work in scheduler.calls(1, [10] * 4)] == [1] * 4


def test_the_cost_is_what_the_planner_expects_or_else_rows() -> None:
    """A batch may take longer than its samples one by one, where what it writes leaves the cache."""
    buckets = parse_buckets("1x64,8x64")
    stages = [
        StagePlan(graph="stages/stage_0.onnx", steps=["attend 0", "decide 0"], milliseconds=[0.7, 7.5]),
        StagePlan(graph="stages/stage_1.onnx", steps=["feed 0"], milliseconds=[]),
    ]
    plan = Plan(stages=stages, head_graph="stages/head.onnx", buckets=buckets)
    cost = cost_in(plan)
    assert [cost(0, bucket) for bucket in buckets] == [0.7, 7.5]
    assert all(cost(unit, bucket) == cost_in_rows(unit, bucket) for unit in (1, 2) for bucket in buckets)
    scheduler = Scheduler([buckets] * 3, cost)
    assert [[work.bucket.batch for work in scheduler.calls(unit, [64] * 8)] for unit in range(3)] == [[1] * 8, [8], [8]]


def test_few_samples_run_alone_and_many_together() -> None:
    assert [w.bucket.batch for w in calls(*[64] * 5)] == [1] * 5
    assert [w.bucket.batch for w in calls(*[64] * 8)] == [8]
    assert [w.bucket.batch for w in calls(*[16] * 7)] == [8], "one filler of 16 rows against seven calls"
    assert total(calls(*[16] * 7)) == 8 * 16 + CALL_OVERHEAD


def test_shorter_samples_fill_the_places_of_a_longer_batch() -> None:
    (work,) = calls(*[64] * 7, 40, buckets=parse_buckets("1x48,1x64,8x48,8x64"))
    assert work.bucket == Bucket(batch=8, length=64) and len(work.samples) == 8


def test_nothing_waiting_needs_no_call() -> None:
    assert calls() == []


def test_too_many_rows_are_an_error() -> None:
    with pytest.raises(InputError, match="65 exceeds the largest bucket, 64"):
        calls(65)
