"""What a run gives: raw results per sample, and predictions for people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.errors import InputError
from engines.head import Head


@dataclass(frozen=True)
class SampleResult:
    """The raw result of one sample.

    length:    real tokens.
    logits:    [classes] fp32, or [length, classes] for a token-level head.
    survivors: per stage, the original positions of the tokens alive at its end, ascending, int32.
    carried:   per cut, the rows that went on to the next stage (the alive ones, and the first).
    """

    length: int
    logits: np.ndarray
    survivors: list[np.ndarray]
    carried: list[int]


@dataclass(frozen=True)
class Prediction:
    """The answer for one text.

    label:       name of the most probable class; None for regression and ranking; one name per token for tagging; for
                 question answering the most probable answer as (first token, last token).
    probability: of the label; None for regression and ranking; one per token for tagging.
    logits:      [classes] (regression, ranking: the value), or [tokens][classes] for a token-level head.
    tokens:      real tokens of the text.
    retention:   tokens alive at the end of every stage.
    """

    label: str | list[str] | tuple[int, int] | None
    probability: float | list[float] | None
    logits: list
    tokens: int
    retention: list[int]

    @property
    def keep_ratio(self) -> list[float]:
        """`retention` over the real length."""
        return [count / self.tokens for count in self.retention]


def predict(result: SampleResult, head: Head) -> Prediction:
    """Reads the logits as the head means them. Raises InputError for more or fewer of them than the head's labels."""
    if result.logits.shape[-1] != len(head.labels):
        raise InputError(
            f"manifest.json: expected a label for each of the model's {result.logits.shape[-1]} outputs, found "
            f"{len(head.labels)}; build the artifact again"
        )
    retention = [len(positions) for positions in result.survivors]
    logits, rest = result.logits, (result.logits.tolist(), result.length, retention)
    if head.one_value:
        return Prediction(None, None, *rest)
    if head.kind == "question_answering":
        first, last, probability = _best_span(logits)
        return Prediction((first, last), probability, *rest)
    probabilities = _softmax(logits, axis=-1)
    best = probabilities.argmax(-1)
    if head.kind == "tagging":
        return Prediction([head.labels[i] for i in best], probabilities.max(-1).tolist(), *rest)
    return Prediction(head.labels[int(best)], float(probabilities[best]), *rest)


def _softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    """In float64, so that the probabilities of a row sum to 1 as printed."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


def _best_span(logits: np.ndarray) -> tuple[int, int, float]:
    """The span start <= end with the largest product of both probabilities; logits [length, 2]."""
    start, end = _softmax(logits, axis=0).T
    # The best start for every end is the running maximum of the starts up to it.
    best_start = np.maximum.accumulate(start)
    last = int((best_start * end).argmax())
    first = int(start[: last + 1].argmax())
    return first, last, float(start[first] * end[last])
