"""Ranking metrics over queries: nDCG@10 and MRR@10, of passages that have a score and a relevance each."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from calib.data import Example, is_number
from calib.labels import listed
from engines.errors import InputError

BEST = 10
"""Ranks that count."""


def by_query(queries: Sequence[Hashable]) -> list[list[int]]:
    """The positions of each query's passages, queries in the order in which they first appear."""
    passages: dict[Hashable, list[int]] = {}
    for position, query in enumerate(queries):
        passages.setdefault(query, []).append(position)
    return list(passages.values())


def queries_of(examples: Sequence[Example]) -> list[str]:
    """What the pairs of (query, passage) are grouped by: the first text."""
    return [example.text for example in examples]


def refuse_no_ranking(name: str, examples: Sequence[Example]) -> None:
    """Raises InputError for examples that are not pairs of a query and a passage with a relevance of 0 or more."""
    problems = []
    if single := sum(example.text_b is None for example in examples):
        problems.append(
            f"{single} of {len(examples)} rows are no pairs; expected a query (text) and a passage (text_b)"
        )
    if wrong := sorted({e.label for e in examples if not is_number(e.label) or float(e.label) < 0}):
        problems.append(f"expected relevances as numbers from 0, found the labels {listed(wrong)}")
    elif not any(float(example.label) for example in examples):
        problems.append("expected some passage with a relevance above 0, found none")
    if problems:
        raise InputError.listing(f"{name}, taken as a ranking (--task ranking)", problems)


def ndcg(scores: Sequence[float], relevance: Sequence[float], queries: Sequence[Hashable], best: int = BEST) -> float:
    """Mean over the queries of DCG over the ideal DCG, with gain 2^relevance - 1 (Burges et al., 2005).

    Queries without a relevant passage do not count; NaN where there is no other. Of equal scores the less relevant
    passage ranks first, so that a model that cannot tell them apart gains nothing.
    """
    values = []
    for ranked, ideal in _ranked(scores, relevance, queries):
        discount = 1 / np.log2(np.arange(2, 2 + min(best, len(ranked))))
        values.append(((2.0 ** ranked[:best] - 1) @ discount) / ((2.0 ** ideal[:best] - 1) @ discount))
    return float(np.mean(values)) if values else float("nan")


def mrr(scores: Sequence[float], relevance: Sequence[float], queries: Sequence[Hashable], best: int = BEST) -> float:
    """Mean over the queries of 1 / rank of the first relevant passage, 0 if it is not among the `best`."""
    values = []
    for ranked, _ in _ranked(scores, relevance, queries):
        first = int(np.argmax(ranked > 0))
        values.append(1 / (1 + first) if first < best else 0.0)
    return float(np.mean(values)) if values else float("nan")


def _ranked(
    scores: Sequence[float], relevance: Sequence[float], queries: Sequence[Hashable]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The relevances of each query that has any, by falling score and by themselves."""
    score, gain = np.asarray(scores, np.float64), np.asarray(relevance, np.float64)
    groups = []
    for passages in by_query(queries):
        if gain[passages].max() > 0:
            order = np.lexsort((gain[passages], -score[passages]))  # of ties the least relevant first
            groups.append((gain[passages][order], np.sort(gain[passages])[::-1]))
    return groups
