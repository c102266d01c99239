"""How the flagship reranker is counted."""

from __future__ import annotations

import pytest

from benchmarks.reranking import PASSAGES, calls_of, lost, ranked
from calib.data import Example

PAIRS = [
    Example(f"query {query}", str(int(place == 2)), f"passage {place} of {query}")
    for query in range(4)
    for place in range(16)
]


def test_every_query_counts_by_the_rank_of_its_passage() -> None:
    first = ranked(PAIRS, [float(pair.label) for pair in PAIRS])
    assert first == {"ndcg@10": [1.0] * 4, "mrr@10": [1.0] * 4}
    third = ranked(PAIRS, [-float(pair.text_b.split()[1]) for pair in PAIRS if pair.text_b])
    assert third["mrr@10"] == [round(1 / 3, 4)] * 4
    mean, error = lost({"ranked": {"dense": first, "pruned": third}})
    assert (mean, error) == (pytest.approx(0.5), pytest.approx(0))


def test_a_timed_query_has_its_own_passages_and_the_next_ones() -> None:
    calls = calls_of(PAIRS)
    assert [len(call) for call in calls] == [PASSAGES] * 3
    for number, call in enumerate(calls):
        assert {query for query, _ in call} == {f"query {number}"}
        assert [passage for _, passage in call[16:]] == [f"passage {place} of {number + 1}" for place in range(16)]
