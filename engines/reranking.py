"""Reranking: passages by their scores for a query, each with the words that the model kept of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.errors import InputError
from engines.head import Head
from engines.prediction import SampleResult
from engines.tokenization import TextEncoder


@dataclass(frozen=True)
class Ranked:
    """A passage and what the model says of it.

    index:     its number among the passages that were given.
    score:     the higher, the more relevant; comparable between queries.
    context:   the words of the passage that were alive at the end, in order, as few as the model reads itself.
    spans:     where these stand in the passage, as (start, end) in characters; neighbours are one span.
    tokens:    real tokens of the pair; retention: those alive at the end of every stage.
    """

    index: int
    score: float
    context: str
    spans: list[tuple[int, int]]
    tokens: int
    retention: list[int]


def refuse_other_use(head: Head, query: object, passages: object, top_k: int | None) -> None:
    """Raises InputError unless a model of this head can rank `passages` for `query`."""
    problems = []
    if head.kind != "ranking":
        problems.append(f"expected an artifact of a ranking model, found a {head.kind} head")
    if not isinstance(query, str):
        problems.append(f"query: expected a text, found a {type(query).__name__}")
    if isinstance(passages, str | bytes) or not isinstance(passages, Sequence):
        problems.append(f"passages: expected a list of texts, found a {type(passages).__name__}")
    if top_k is not None and top_k < 1:
        problems.append(f"top_k: expected at least 1, found {top_k}")
    if problems:
        raise InputError.listing("rerank", problems)


def best_first(results: Sequence[SampleResult], top_k: int | None) -> list[tuple[int, float]]:
    """The places of passages and their scores, equal ones in their order; all, or the first `top_k`."""
    scores = [float(result.logits[0]) for result in results]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[:top_k]
    return [(index, scores[index]) for index in order]


def ranked(
    query: str, passages: Sequence[str], results: Sequence[SampleResult], encoder: TextEncoder, top_k: int | None
) -> list[Ranked]:
    """The passages in the order of `best_first`."""
    ranked = []
    for index, score in best_first(results, top_k):
        result, passage = results[index], passages[index]
        spans = surviving_words(passage, encoder.places_of_second((query, passage)), result.survivors[-1])
        context = " ".join(passage[start:end] for start, end in spans)
        retention = [len(positions) for positions in result.survivors]
        ranked.append(Ranked(index, score, context, spans, result.length, retention))
    return ranked


def surviving_words(
    passage: str, places: Sequence[tuple[int, int, int]], survivors: np.ndarray
) -> list[tuple[int, int]]:
    """The runs of words of which a token survives, as (start, end) in characters.

    places: of every token of the passage its position in the input, and its start and end in the passage.
    """
    alive, touched = set(survivors.tolist()), np.zeros(len(passage), bool)
    for position, start, end in places:
        if position in alive:
            touched[start:end] = True
    spans: list[tuple[int, int]] = []
    joined = False
    for word in re.finditer(r"\S+", passage):
        kept = bool(touched[word.start() : word.end()].any())
        if kept and joined:
            spans[-1] = spans[-1][0], word.end()
        elif kept:
            spans.append(word.span())
        joined = kept
    return spans
