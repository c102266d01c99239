"""Answers to a question, as pieces of the text that it is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engines.origin import Origin


@dataclass(frozen=True)
class Answer:
    """A piece of the context with its probability; `start` and `end` are characters.

    tokens: the first and the last token of the input; None where the answer is that there is none.
    """

    text: str
    probability: float
    start: int
    end: int
    tokens: tuple[int, int] | None


def answers_of(logits: np.ndarray, origin: Origin, most: int, longest: int, no_answer: bool) -> list[Answer]:
    """The most probable answers, best first; logits [tokens, 2] of starts and ends.

    An answer lies in the second part of a pair, starts in front of its end, and has at most `longest` tokens; its text
    is that of whole words. The first token stands for "no answer": it takes part in the probabilities, and is an answer
    where there may be none. Answers of the same words are one, whose probabilities are added.
    """
    return answers_in([(logits, origin)], most, longest, no_answer)


def answers_in(windows: Sequence[tuple[np.ndarray, Origin]], most: int, longest: int, no_answer: bool) -> list[Answer]:
    """The most probable answers in all windows of a text, as `answers_of` finds them in each.

    What several windows answer counts as the most probable of it, and "no answer" as the least: one window that knows
    the answer is enough. `tokens` count on through the windows.
    """
    found: dict[str, Answer] = {}
    none, before = 1.0, 0
    for logits, origin in windows:
        answers, empty = _answers(logits, origin, most, longest)
        for answer in answers:
            known = found.get(answer.text.lower())
            if known is None or answer.probability > known.probability:
                assert answer.tokens is not None
                first, last = answer.tokens
                found[answer.text.lower()] = replace(answer, tokens=(before + first, before + last))
        none, before = min(none, empty), before + len(logits)
    every = list(found.values())
    if no_answer or not every:
        every.append(Answer("", none, 0, 0, None))
    return sorted(every, key=lambda answer: -answer.probability)[:most]


def _answers(logits: np.ndarray, origin: Origin, most: int, longest: int) -> tuple[list[Answer], float]:
    """The answers in one input, and the probability that there is none."""
    context = np.array([part == len(origin.texts) - 1 for part in origin.parts])
    context[0] = True
    shifted = np.where(context[:, None], logits, -np.inf).astype(np.float64)
    weights = np.exp(shifted - shifted.max(0))
    start, end = (weights / weights.sum(0)).T
    found: dict[str, Answer] = {}
    for first, last, probability in _spans(start, end, 2 * most + 10, longest):
        begin, stop = origin.word_span(first)[0], origin.word_span(last)[1]
        text = origin.texts[-1][begin:stop]
        known = found.get(text.lower())
        if known is None:
            found[text.lower()] = Answer(text, probability, begin, stop, (first, last))
        else:
            found[text.lower()] = Answer(
                known.text, known.probability + probability, known.start, known.end, known.tokens
            )
    return list(found.values()), float(start[0] * end[0])


def _spans(start: np.ndarray, end: np.ndarray, most: int, longest: int) -> list[tuple[int, int, float]]:
    """The most probable spans start <= end of at most `longest` tokens, none of which is the first; best first."""
    span = np.triu(np.outer(start, end)) - np.triu(np.outer(start, end), longest)
    span[0, :] = span[:, 0] = 0
    flat = span.ravel()
    best = np.argsort(-flat, kind="stable")[:most]
    return [(int(n // len(start)), int(n % len(start)), float(flat[n])) for n in best if flat[n] > 0]
