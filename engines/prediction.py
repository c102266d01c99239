"""What a run gives: raw results per sample, and predictions for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from engines.answering import Answer, answers_in, answers_of
from engines.entities import Entity, entities_of
from engines.errors import InputError
from engines.head import Head, HeadKind
from engines.origin import Origin
from engines.reading import PLAIN, Reading


@dataclass(frozen=True)
class SampleResult:
    """The raw result of one sample.

    length:    real tokens.
    logits:    [outputs] fp32, or [length, outputs] for a token-level head.
    survivors: per stage, the original positions of the tokens alive at its end, ascending, int32.
    carried:   per cut, the rows that went on to the next stage (the alive ones, and the first).
    origin:    where the tokens come from, if it is known.
    """

    length: int
    logits: np.ndarray
    survivors: list[np.ndarray]
    carried: list[int]
    origin: Origin | None = None


@dataclass(frozen=True)
class Prediction:
    """The answer for one text.

    label:         name of the most probable class, or of all labels of many that are given; None for a value or an
                   embedding; one name per token for tagging; for question answering the best answer as (first token,
                   last token), None if there is none.
    probability:   of the label or of each of them; None for a value or an embedding.
    logits:        [outputs] (of a regression the value, of an embedding its numbers), or [tokens][outputs] for a
                   token-level head.
    tokens:        real tokens of the text.
    retention:     tokens alive at the end of every stage.
    probabilities: of every label of many, by its name.
    embedding:     [size] float32.
    entities:      of a tagged text, in order.
    answers:       to a question, the best first.
    What a head does not give is None.
    """

    label: str | list[str] | tuple[int, int] | None
    probability: float | list[float] | None
    logits: list
    tokens: int
    retention: list[int]
    probabilities: dict[str, float] | None = None
    embedding: np.ndarray | None = field(default=None, compare=False)  # its numbers are the logits
    entities: list[Entity] | None = None
    answers: list[Answer] | None = None

    @property
    def keep_ratio(self) -> list[float]:
        """`retention` over the real length."""
        return [count / self.tokens for count in self.retention]

    def record(self) -> dict[str, object]:
        """What people want of it, as JSON has it: logits of tokens are left out where their meaning is there."""
        told: dict[str, object] = {"tokens": self.tokens, "retention": self.retention}
        if self.embedding is not None:
            return {"embedding": self.logits, **told}
        if self.entities is not None:
            return {"entities": [_without_part(entity) for entity in self.entities], **told}
        if self.answers is not None:
            best, *others = [{n: v for n, v in vars(answer).items() if n != "tokens"} for answer in self.answers]
            best = {"answer" if name == "text" else name: value for name, value in best.items()}
            return {**best, **({"others": others} if others else {}), **told}
        found: dict[str, object] = {"label": self.label, "probability": self.probability}
        if self.probabilities is not None:
            found["probabilities"] = self.probabilities
        return {**found, "logits": self.logits, **told}


def predict(result: SampleResult, head: Head, reading: Reading = PLAIN) -> Prediction:
    """Reads the logits as the head means them. Raises InputError for more or fewer of them than the head's labels."""
    if result.logits.shape[-1] != head.outputs:
        raise InputError(
            f"manifest.json: expected a label for each of the model's {result.logits.shape[-1]} outputs, found "
            f"{head.outputs}; build the artifact again"
        )
    retention = [len(positions) for positions in result.survivors]
    rest = (result.logits.tolist(), result.length, retention)
    return _READERS[head.kind](result, head, reading, rest)


def predict_windows(windows: Sequence[SampleResult], head: Head, reading: Reading = PLAIN) -> Prediction:
    """The answer to a question about a text that was read in windows, which know their origin.

    Logits, tokens and retention are those of all windows. Raises InputError as `predict`.
    """
    single = [predict(window, head, reading) for window in windows]
    if len(single) == 1:
        return single[0]
    read = [(window.logits, window.origin) for window in windows if window.origin is not None]
    answers = answers_in(read, reading.answers, reading.max_answer, _may_have_none(head, reading))
    return Prediction(
        answers[0].tokens,
        answers[0].probability,
        [row for found in single for row in found.logits],
        sum(found.tokens for found in single),
        [sum(counts) for counts in zip(*(found.retention for found in single), strict=True)],
        answers=answers,
    )


_Rest = tuple[list, int, list[int]]
"""Logits, tokens and retention."""


def _value(result: SampleResult, head: Head, reading: Reading, rest: _Rest) -> Prediction:
    return Prediction(None, None, *rest)


def _embedding(result: SampleResult, head: Head, reading: Reading, rest: _Rest) -> Prediction:
    return Prediction(None, None, *rest, embedding=result.logits)


def _class(result: SampleResult, head: Head, reading: Reading, rest: _Rest) -> Prediction:
    probabilities = softmax(result.logits, axis=-1)
    best = int(probabilities.argmax())
    return Prediction(head.labels[best], float(probabilities[best]), *rest)


def _many(result: SampleResult, head: Head, reading: Reading, rest: _Rest) -> Prediction:
    probabilities = (1 / (1 + np.exp(-result.logits.astype(np.float64)))).tolist()
    given = np.flatnonzero(result.logits >= np.array(cut_logits(head, reading.threshold), np.float32))
    named = dict(zip(head.labels, probabilities, strict=True))
    return Prediction([head.labels[n] for n in given], [probabilities[n] for n in given], *rest, probabilities=named)


def _tags(result: SampleResult, head: Head, reading: Reading, rest: _Rest) -> Prediction:
    probabilities, entities = softmax(result.logits, axis=-1), None
    if result.origin is not None:
        entities = entities_of(probabilities, head.labels, result.origin, reading.aggregation)
    tags = [head.labels[n] for n in probabilities.argmax(-1)]
    return Prediction(tags, probabilities.max(-1).tolist(), *rest, entities=entities)


def _answer(result: SampleResult, head: Head, reading: Reading, rest: _Rest) -> Prediction:
    if result.origin is None:
        first, last, probability = _best_span(result.logits)
        return Prediction((first, last), probability, *rest)
    no_answer = _may_have_none(head, reading)
    answers = answers_of(result.logits, result.origin, reading.answers, reading.max_answer, no_answer)
    return Prediction(answers[0].tokens, answers[0].probability, *rest, answers=answers)


def _may_have_none(head: Head, reading: Reading) -> bool:
    """Whether a question may have no answer in its text."""
    return head.no_answer if reading.no_answer is None else reading.no_answer


_READERS: dict[HeadKind, Callable[[SampleResult, Head, Reading, _Rest], Prediction]] = {
    "classification": _class,
    "multi_label": _many,
    "regression": _value,
    "ranking": _value,
    "embedding": _embedding,
    "question_answering": _answer,
    "tagging": _tags,
}


def cut_logits(head: Head, threshold: float | None = None) -> list[float]:
    """From which logit on each label of many is given: that of its threshold, or of one for all."""
    cuts = head.thresholds or [0.5] * len(head.labels)
    if threshold is not None:
        cuts = [threshold] * len(head.labels)
    return [math.log(cut / (1 - cut)) if 0 < cut < 1 else math.copysign(math.inf, cut - 0.5) for cut in cuts]


def softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    """In float64, so that the probabilities of a row sum to 1 as printed."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


def _without_part(entity: Entity) -> dict[str, object]:
    """An entity's fields; which part it is of where that is not the first."""
    return {name: value for name, value in vars(entity).items() if name != "part" or value}


def _best_span(logits: np.ndarray) -> tuple[int, int, float]:
    """The span start <= end with the largest product of both probabilities; logits [length, 2]."""
    start, end = softmax(logits, axis=0).T
    # The best start for every end is the running maximum of the starts up to it.
    best_start = np.maximum.accumulate(start)
    last = int((best_start * end).argmax())
    first = int(start[: last + 1].argmax())
    return first, last, float(start[first] * end[last])
