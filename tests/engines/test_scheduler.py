"""The scheduler's promises: nothing is lost, overflows, starves or runs in a worse bucket than it has to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.buckets import Bucket, parse_buckets
from engines.errors import InputError
from engines.scheduler import CALL_OVERHEAD, Scheduler, Work

BUCKETS = parse_buckets("1x16,1x32,1x64,8x16,8x32,8x64")
ROWS = st.integers(1, 64)


@st.composite
def bucket_sets(draw: st.DrawFn) -> list[Bucket]:
    """Any buckets whose longest length is 64; batch sizes may differ by length."""
    lengths = draw(st.sets(st.integers(1, 63), max_size=4)) | {64}
    batches = st.sets(st.integers(1, 9), min_size=1, max_size=3)
    return [Bucket(batch=batch, length=length) for length in lengths for batch in draw(batches)]


def drain(scheduler: Scheduler) -> list[Work]:
    """Everything that waits, as calls; nothing moves on to a next unit."""
    calls = []
    while work := scheduler.next(flush=True):
        calls.append(work)
    return calls


def filled(*rows: int, unit: int = 0, units: int = 1, buckets: list[Bucket] = BUCKETS) -> Scheduler:
    scheduler = Scheduler(units, buckets)
    for sample, count in enumerate(rows):
        scheduler.add(sample, unit, count)
    return scheduler


@given(st.lists(ROWS, max_size=40), bucket_sets())
def test_every_sample_runs_exactly_once_in_a_bucket_that_holds_it(rows: list[int], buckets: list[Bucket]) -> None:
    scheduler = filled(*rows, buckets=buckets)
    assert scheduler.waiting == len(rows)
    calls = drain(scheduler)
    assert sorted(sample for work in calls for sample in work.samples) == list(range(len(rows)))
    for work in calls:
        assert 1 <= len(work.samples) <= work.bucket.batch and work.bucket in buckets
        assert all(rows[sample] <= work.bucket.length for sample in work.samples)
    assert scheduler.waiting == 0


@given(st.lists(ROWS, min_size=1, max_size=20), st.integers(1, 3), st.data())
def test_samples_pass_all_units_and_shrink_on_the_way(rows: list[int], units: int, data: st.DataObject) -> None:
    scheduler, left, seen = Scheduler(units, BUCKETS), list(rows), [0] * len(rows)
    for sample, count in enumerate(rows):
        scheduler.add(sample, 0, count)
    while work := scheduler.next(flush=True):
        for sample in work.samples:
            assert seen[sample] == work.unit
            seen[sample] += 1
            if seen[sample] < units:
                left[sample] = data.draw(st.integers(1, left[sample]))
                scheduler.add(sample, seen[sample], left[sample])
    assert seen == [units] * len(rows)


@given(st.lists(ROWS, max_size=40))
def test_without_a_flush_only_full_batches_run(rows: list[int]) -> None:
    scheduler = filled(*rows)
    while work := scheduler.next(flush=False):
        assert len(work.samples) == work.bucket.batch == 8
        assert all(work.bucket.length / 2 < rows[sample] or work.bucket.length == 16 for sample in work.samples)
    assert scheduler.waiting == len(rows) - 8 * sum(
        sum(low < count <= high for count in rows) // 8 for low, high in ((0, 16), (16, 32), (32, 64))
    )


@given(st.lists(ROWS, min_size=1, max_size=40), bucket_sets())
def test_a_partial_call_has_the_oldest_sample(rows: list[int], buckets: list[Bucket]) -> None:
    scheduler, waiting = filled(*rows, buckets=buckets), set(range(len(rows)))
    while scheduler.next(flush=False) is None and (work := scheduler.next(flush=True)):
        assert min(waiting) in work.samples
        waiting -= set(work.samples)
        if not waiting:
            break


@given(st.lists(ROWS, min_size=1, max_size=40))
def test_a_bucket_serves_its_own_queue_in_order_of_arrival(rows: list[int]) -> None:
    scheduler, order = filled(*rows), {}
    for work in drain(scheduler):
        for sample in work.samples:
            own = min(length for length in (16, 32, 64) if length >= rows[sample])
            assert order.get(own, -1) < sample
        order.update({min(n for n in (16, 32, 64) if n >= rows[s]): s for s in work.samples})


@given(st.lists(ROWS, max_size=60))
def test_no_worse_than_running_every_sample_alone(rows: list[int]) -> None:
    alone = sum(min(n for n in (16, 32, 64) if n >= count) + CALL_OVERHEAD for count in rows)
    assert sum(w.bucket.batch * w.bucket.length + CALL_OVERHEAD for w in drain(filled(*rows))) <= alone


def test_with_batches_of_one_nothing_waits() -> None:
    scheduler = filled(20, 60, buckets=[b for b in BUCKETS if b.batch == 1])
    assert scheduler.next(flush=False) == Work(0, BUCKETS[1], (0,))
    assert scheduler.next(flush=False) == Work(0, BUCKETS[2], (1,))
    assert scheduler.next(flush=True) is None


def test_the_deepest_full_batch_goes_first() -> None:
    scheduler = Scheduler(3, BUCKETS)
    for unit in (0, 2, 1):
        for sample in range(8):
            scheduler.add(unit * 8 + sample, unit, 10)
    assert [scheduler.next(flush=False).unit for _ in range(3)] == [2, 1, 0]


def test_few_samples_run_alone_and_many_together() -> None:
    assert [w.bucket.batch for w in drain(filled(*[64] * 5))] == [1] * 5
    assert [w.bucket.batch for w in drain(filled(*[64] * 8))] == [8]
    assert [w.bucket.batch for w in drain(filled(*[16] * 7))] == [8], "one filler of 16 rows against seven calls"


def test_shorter_samples_fill_the_places_of_a_longer_batch() -> None:
    (work,) = drain(filled(*[64] * 7, 40, buckets=parse_buckets("1x48,1x64,8x48,8x64")))
    assert work.bucket == Bucket(batch=8, length=64) and len(work.samples) == 8


def test_a_rare_length_is_not_starved_by_a_common_one() -> None:
    scheduler = filled(64, *[10] * 7)
    scheduler.add(8, 0, 10)
    assert scheduler.next(flush=False).samples == (1, 2, 3, 4, 5, 6, 7, 8)
    for sample in range(9, 16):
        scheduler.add(sample, 0, 10)
    assert 0 in scheduler.next(flush=True).samples


def test_a_queue_is_in_order_of_arrival_whatever_the_order_of_adding() -> None:
    scheduler = Scheduler(1, BUCKETS)
    for sample in (9, 3, 7, 1, 8, 2, 6, 4, 5):
        scheduler.add(sample, 0, 10)
    assert scheduler.next(flush=False).samples == (1, 2, 3, 4, 5, 6, 7, 8)


def test_too_many_rows_are_an_error() -> None:
    with pytest.raises(InputError, match="65 exceeds the largest bucket, 64"):
        filled(65)
