"""Buckets: what holds how many rows, the defaults, and the written form."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engines.buckets import Bucket, default_buckets, format_buckets, parse_buckets, smallest_holding, within_budget
from engines.errors import InputError


@pytest.mark.parametrize(("count", "expected"), [(0, 16), (1, 16), (16, 16), (17, 24), (24, 24), (25, 256), (256, 256)])
def test_the_edge_stays_and_one_more_goes_to_the_next(count: int, expected: int) -> None:
    assert smallest_holding(count, [16, 24, 256], "rows") == expected


def test_behind_the_largest_is_an_error_with_both_numbers() -> None:
    with pytest.raises(InputError, match=r"stage 1: 257 exceeds the largest bucket, 256"):
        smallest_holding(257, [16, 256], "stage 1")


@given(st.sets(st.integers(1, 500), min_size=1), st.data())
def test_the_bucket_is_the_smallest_that_holds_the_count(sizes: set[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, max(sizes)))
    assert smallest_holding(count, sorted(sizes), "rows") == min(size for size in sizes if size >= count)


def test_default_buckets() -> None:
    assert [b.length for b in default_buckets(256, [1])] == [
        *(16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
    ]
    assert [b.length for b in default_buckets(100, [1])] == [16, 24, 32, 40, 48, 56, 64, 80, 96, 100]
    assert [b.length for b in default_buckets(10, [1])] == [10]
    assert {b.batch for b in default_buckets(256)} == {1, 8}


@given(st.integers(1, 2048), st.sets(st.integers(1, 64), min_size=1))
def test_default_buckets_hold_everything_and_waste_little(max_length: int, batches: set[int]) -> None:
    buckets = default_buckets(max_length, batches)
    assert len(set(buckets)) == len(buckets)
    for batch in batches:
        lengths = [b.length for b in buckets if b.batch == batch]
        assert lengths == sorted(lengths) and lengths[-1] == max_length
        assert all(b <= (1.25 if a >= 32 else 1.5) * a for a, b in pairwise(lengths))


@given(st.sets(st.builds(Bucket, batch=st.integers(1, 99), length=st.integers(1, 9999)), min_size=1))
def test_parsing_is_the_inverse_of_formatting(buckets: set[Bucket]) -> None:
    assert parse_buckets(format_buckets(buckets)) == sorted(buckets)


def test_every_wrong_part_is_named() -> None:
    with pytest.raises(InputError) as caught:
        parse_buckets("1x128, 8x, 0x16,8x128,1x128")
    assert "3 problem(s)" in str(caught.value)
    for part in ("'8x'", "'0x16'", "1x128 is given twice"):
        assert part in str(caught.value)


@pytest.mark.parametrize("fields", [{"batch": 0, "length": 1}, {"batch": 1, "length": -1}, {"batch": 1}])
def test_impossible_buckets(fields: dict) -> None:
    with pytest.raises(ValidationError):
        Bucket(**fields)


def test_short_texts_get_larger_batches_within_a_token_budget() -> None:
    held = parse_buckets("1x16,8x16,1x48,8x48,1x256,8x256")
    assert format_buckets(within_budget(held, 2048)) == "1x16,1x48,1x256,8x16,8x48,8x256,40x48,128x16"


@given(st.sets(st.builds(Bucket, batch=st.integers(1, 9), length=st.integers(1, 99)), min_size=1), st.integers(1, 999))
def test_a_token_budget_adds_what_fits_it_and_takes_nothing_away(held: set[Bucket], tokens: int) -> None:
    added = set(within_budget(held, tokens)) - held
    assert set(within_budget(held, tokens)) >= held
    assert {bucket.length for bucket in added} <= {bucket.length for bucket in held}
    for bucket in added:
        largest = max(other.batch for other in held if other.length == bucket.length)
        assert bucket.batch % largest == 0 and bucket.batch > largest
        assert bucket.batch * bucket.length <= tokens < (bucket.batch + largest) * bucket.length


@pytest.mark.parametrize(("batch", "length"), [(1, 10**7), (10**9, 32), (2049, 2048), (10**30, 1)])
def test_a_call_without_end_is_refused(batch: int, length: int) -> None:
    """Fault 31."""
    with pytest.raises(ValidationError, match="expected a bucket of at most 4194304 tokens"):
        Bucket(batch=batch, length=length)
    with pytest.raises(InputError, match=r"expected (batch x length|a bucket of at most 4194304 tokens)"):
        parse_buckets(f"1x32,{batch}x{length}")
    assert Bucket(batch=2048, length=2048)
