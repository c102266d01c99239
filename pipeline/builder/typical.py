"""Measures typical texts: what they retain, and how long tokenising them takes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engines.intake import TOKENISE_TOGETHER
from engines.tokenization import Text, TextEncoder
from pipeline.builder.subject import Subject, encoder_of, tokens_of
from pipeline.model.retention import carried_rows

_TOKENISED = 256


@dataclass(frozen=True)
class TypicalTexts:
    """The typical texts of a build. rows: [samples, layers + 1], real lengths and rows behind each layer."""

    texts: Sequence[Text]
    rows: np.ndarray

    @classmethod
    def of(cls, subject: Subject) -> TypicalTexts:
        """Runs the reference on them up to its last decision."""
        examples = subject.typical
        samples = tokens_of(subject.checkpoint, subject.model, examples, subject.typical_length)
        return cls([example.content for example in examples], carried_rows(subject.model, samples).numpy())

    def tokenising_seconds(self, subject: Subject, batches: Iterable[int]) -> dict[int, float]:
        """Returns the seconds per text by batch size: at batch 1 one by one, else in the runner's groups."""
        encode = encoder_of(subject.checkpoint, subject.model, subject.typical_length)
        texts = self.texts[:_TOKENISED]
        return {batch: _seconds(encode, texts, 1 if batch == 1 else TOKENISE_TOGETHER) for batch in batches}


def _seconds(encode: TextEncoder, texts: Sequence[Text], together: int) -> float:
    chunks = [texts[start : start + together] for start in range(0, len(texts), together)]
    encode(chunks[0])
    started = time.perf_counter()
    for chunk in chunks:
        encode(chunk)
    return (time.perf_counter() - started) / len(texts)
