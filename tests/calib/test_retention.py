"""Row counts: what is accepted, exact quantiles, bins by length, and the JSON round trip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.retention import QUANTILES, RetentionStatistics
from engines.errors import InputError

NAMES = {"data": "toy", "data_sha256": "a" * 64, "checkpoint_sha256": "b" * 64}


def statistics(*rows: list[int]) -> RetentionStatistics:
    """Statistics of these samples: [real length, rows behind layer 0, ...]."""
    return RetentionStatistics(rows=list(rows), **NAMES)


FOUR = statistics([10, 10, 4], [16, 12, 2], [17, 9, 1], [100, 60, 30])


def test_counts_are_the_samples_own() -> None:
    assert FOUR.counts.tolist() == FOUR.rows and FOUR.counts.dtype == np.int64
    assert FOUR.bins[0].mean == [35.75, 22.75, 9.25]
    with pytest.raises(ValueError, match="read-only"):
        FOUR.counts[0, 0] = 1


counts = st.integers(1, 3).flatmap(
    lambda layers: st.lists(
        st.lists(st.integers(1, 600), min_size=layers + 1, max_size=layers + 1).map(lambda row: sorted(row)[::-1]),
        min_size=1,
        max_size=20,
    )
)


@given(counts, st.sampled_from(QUANTILES))
def test_a_quantile_is_the_smallest_count_that_holds_the_share(rows: list[list[int]], share: float) -> None:
    found = statistics(*rows)
    for column, value in zip(found.counts.T, found.quantile(share), strict=True):
        assert value in column
        assert np.mean(column <= value) >= share
        assert not (column < value).any() or np.mean(column < value) < share


@given(counts)
def test_bins_by_length_hold_every_sample_once(rows: list[list[int]]) -> None:
    whole, *bins = statistics(*rows).bins
    assert whole.samples == len(rows) == sum(part.samples for part in bins)
    assert [part.shortest for part in bins] == sorted(part.shortest for part in bins)
    for part in bins:
        assert part.longest <= max(16, 2 * part.shortest - 2)  # 17 to 32, 33 to 64, ...


def test_ends_of_bins_are_inclusive() -> None:
    bins = FOUR.by_length([16, 17, 64, 128])
    assert [(part.shortest, part.longest, part.samples) for part in bins] == [(10, 16, 2), (17, 17, 1), (100, 100, 1)]
    assert bins[0].mean == [13.0, 11.0, 3.0]
    assert bins[0].quantiles["1"] == [16, 12, 4]
    assert FOUR.of_lengths(18, 99) is None


@given(counts)
def test_json_gives_the_same_back_and_shows_the_quantiles(rows: list[list[int]]) -> None:
    found = statistics(*rows)
    text = found.model_dump_json()
    assert RetentionStatistics.model_validate_json(text) == found
    assert json.loads(text)["bins"][0]["quantiles"]["1"] == found.counts.max(0).tolist()


def test_a_file_gives_the_same_back(tmp_path: Path) -> None:
    path = tmp_path / "retention.json"
    FOUR.write(path)
    assert RetentionStatistics.read(path) == FOUR


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        ("{}", "rows: Field required"),
        ("not JSON", "Invalid JSON"),
        (json.dumps({**NAMES, "rows": []}), "at least 1 item"),
        (json.dumps({**NAMES, "rows": [[4, 3], [4]]}), "at least 2 items"),
        (json.dumps({**NAMES, "rows": [[4, 3], [4, 3, 2]]}), "as many counts"),
        (json.dumps({**NAMES, "rows": [[4, 4], [4, 5]]}), "never grow from layer to layer; sample 1"),
        (json.dumps({**NAMES, "rows": [[4, 0]]}), "at least 1"),
        (json.dumps({**NAMES, "rows": [[4, 3]], "schema_version": 2}), "schema_version"),
    ],
)
def test_files_that_are_no_statistics_are_refused(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "retention.json"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=problem) as error:
        RetentionStatistics.read(path)
    assert str(path) in str(error.value)
