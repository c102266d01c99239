"""Artifacts called as people call their models: answers as transformers' pipelines give them, arrays as others do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engines.entities import Entity
from engines.errors import InputError, SkimError
from engines.inputs import Input, text_of_item
from engines.prediction import Prediction, softmax
from engines.reading import PLAIN, Reading
from engines.runner import Runner
from engines.tokenization import Text

OnError = Literal["raise", "return"]
TopK = int | None | Literal["best"]
"""Labels of a text: the best by itself, or a list of so many; None: of all."""


def pipeline(
    artifact: str | Path,
    *,
    aggregation_strategy: str = "none",
    top_k: TopK = "best",
    on_error: OnError = "raise",
    doc_stride: int = PLAIN.stride,
    **options: Any,
) -> Pipeline:
    """An artifact as a pipeline.

    aggregation_strategy: of tagged tokens, as in transformers: none, simple, first, average or max.
    top_k:    labels of a text, or answers to a question; "best" is one without a list, None all labels. A call may
              say it anew for labels.
    on_error: "return" puts the error of a bad text in the place of its answer.
    doc_stride: tokens that neighbouring windows of a context share, where it is too long to be asked about at once.
    options:  of `Runner`, such as threads, truncate, window.
    """
    if on_error not in ("raise", "return"):
        raise InputError(f"on_error: expected raise or return, found {on_error!r}")
    most = top_k if isinstance(top_k, int) else 1
    reading = Reading(aggregation=aggregation_strategy, answers=most, stride=doc_stride)  # type: ignore[arg-type]
    return Pipeline(Runner(artifact, reading=reading, **options), top_k, on_error)


class Pipeline:
    """Calls a runner. Safe to call from several threads; their engine calls take turns.

    One text, a pair as a tuple or as {"text": ..., "text_pair": ...}, or a question as {"question": ..., "context":
    ...} gives one answer; a list or an array of them a list; another iterable, such as a generator, an iterator that
    reads no further ahead than the runner's window. Answers are in the order of the texts.
    """

    def __init__(self, runner: Runner, top_k: TopK = "best", on_error: OnError = "raise") -> None:
        self.runner, self.head = runner, runner.manifest.head
        self._top_k, self._on_error = top_k, on_error

    def __call__(self, inputs: Any = None, *, top_k: TopK | Literal["as before"] = "as before", **named: str) -> Any:
        """Answers with the fields that transformers' pipeline of the task gives.

        Labels: {"label", "score"}, for one text in a list; with `top_k` a list for each text. Tags: a list of {"entity"
        or "entity_group", "score", "word", "start", "end"}. Questions: {"score", "start", "end", "answer"}.
        Embeddings: an array. named: question and context.
        """
        most = self._top_k if top_k == "as before" else top_k
        if isinstance(most, int) and most < 1:
            raise InputError(f"top_k: expected at least 1 or None, found {most}")
        inputs = named or inputs

        def told(prediction: Prediction | SkimError) -> Any:
            return prediction if isinstance(prediction, SkimError) else self._told(prediction, most)

        if _is_one(inputs):
            (answer,) = map(told, self.stream([inputs]))
            listed = isinstance(answer, dict) and "label" in answer and not isinstance(inputs, Mapping)
            return [answer] if listed else answer
        answers = map(told, self.stream(inputs))
        return list(answers) if isinstance(inputs, list | tuple | np.ndarray) else answers

    def stream(self, inputs: Iterable[Any]) -> Iterator[Prediction | SkimError]:
        """Predictions in the order of the texts; with on_error "return" an error in the place of one."""
        if _is_one(inputs) or isinstance(inputs, bytes) or not isinstance(inputs, Iterable):
            raise InputError(f"inputs: expected texts, such as a list of them, found a {type(inputs).__name__}")
        texts = map(_text_of, inputs)
        if self._on_error == "raise":
            return self.runner.stream(texts)
        return self._with_errors(iter(texts))

    def encode(self, sentences: Any, *, normalize_embeddings: bool = False) -> np.ndarray:
        """Embeddings [texts, size] float32, or [size] of one text, as sentence-transformers' `encode` gives them.

        Raises InputError for a model that gives none.
        """
        if self.head.kind != "embedding":
            raise InputError(f"encode: expected an embedder, found a {self.head.kind} model; call it or use predict")
        vectors = self._rows(sentences, lambda prediction: prediction.logits, self.head.outputs)
        if normalize_embeddings:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
        return vectors

    def predict(self, pairs: Any, *, apply_softmax: bool = False) -> np.ndarray:
        """Scores [texts] of a model with one output, else logits [texts, classes], as CrossEncoder's `predict`.

        Of one text or pair [] or [classes]. A score is what the model gives, with a cross-encoder's own activation.
        Raises InputError for a model that answers token by token.
        """
        if self.head.token_level or self.head.kind == "embedding":
            raise InputError(f"predict: expected scores of whole texts, found a {self.head.kind} model")
        scores = self._rows(pairs, _logits, self.head.outputs)
        if self.head.one_value:
            return scores[..., 0]
        return softmax(scores, axis=-1).astype(np.float32) if apply_softmax else scores

    def rank(self, query: str, documents: Sequence[str], top_k: int | None = None) -> list[dict[str, Any]]:
        """The documents by their score for a query, best first: {"corpus_id", "score", "text"}, as CrossEncoder's."""
        scores = self.predict([(query, document) for document in documents])
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [{"corpus_id": int(n), "score": float(scores[n]), "text": documents[n]} for n in order]

    def _rows(self, inputs: Any, read: Callable[[Prediction], Sequence[float]], width: int) -> np.ndarray:
        one = _is_one(inputs)
        predictions = self.runner.stream(map(_text_of, [inputs] if one else inputs))
        rows = np.array([read(prediction) for prediction in predictions], np.float32).reshape(-1, width)
        return rows[0] if one else rows

    def _scores(self, prediction: Prediction) -> list[float]:
        """What the outputs mean: the model's own score or amount, or the probabilities of the labels."""
        if prediction.probabilities is not None:
            return list(prediction.probabilities.values())
        return prediction.logits if self.head.one_value else softmax(np.array(prediction.logits), -1).tolist()

    def _told(self, prediction: Prediction, most: TopK) -> Any:
        if prediction.entities is not None:
            grouped = self.runner.reading.aggregation != "none"
            return [_entity(entity, grouped) for entity in prediction.entities]
        if prediction.answers is not None:
            found = [
                {"score": a.probability, "start": a.start, "end": a.end, "answer": a.text} for a in prediction.answers
            ]
            return found if isinstance(most, int) and most > 1 else found[0]
        if prediction.embedding is not None:
            return prediction.embedding
        scores = self._scores(prediction)
        order = sorted(range(len(scores)), key=lambda n: -scores[n])
        labels = [{"label": self.head.labels[n], "score": scores[n]} for n in order]
        return labels[0] if most == "best" else labels[:most]

    def _with_errors(self, texts: Iterator[Text]) -> Iterator[Prediction | SkimError]:
        numbered = (Input(text, number) for number, text in enumerate(texts, 1))
        while chunk := list(islice(numbered, 256)):
            for answer in self.runner.answers(chunk):
                yield answer if isinstance(answer, SkimError) else self.runner.read(answer)


def _logits(prediction: Prediction) -> Sequence[float]:
    return prediction.logits


def _entity(entity: Entity, grouped: bool) -> dict[str, Any]:
    name = "entity_group" if grouped else "entity"
    place = {"word": entity.text, "start": entity.start, "end": entity.end}
    return {name: entity.label, "score": entity.probability, **place}


def _is_one(inputs: Any) -> bool:
    """Whether it is one text, pair or question; a list of two texts is two texts."""
    pair = isinstance(inputs, tuple) and len(inputs) == 2 and all(isinstance(part, str) for part in inputs)
    return isinstance(inputs, str | Mapping) or pair


def _text_of(item: Any) -> Any:
    """A text or a pair as the runner takes it; what is neither is refused there."""
    if isinstance(item, list | np.ndarray) and len(item) == 2:
        return tuple(map(_text_of, item))
    return str(item) if isinstance(item, np.str_) else text_of_item(item)
