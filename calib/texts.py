"""The calibration set: real inputs of a model, how well they cover its buckets and labels, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from calib.data import Example, examples_digest
from calib.targets import Labels
from engines.buckets import Bucket, smallest_holding
from engines.errors import InputError
from engines.tokenization import Tokens

FEWEST = 32
"""Fewest usable texts. Fewer do not show which activations a model has."""
_SHOWN = 5
_SPECIAL = 2
"""Tokens of an empty text: [CLS] and [SEP]."""


class Coverage(BaseModel):
    """What a calibration set covers, and where its ranges are extrapolated.

    tokens:     real tokens of all texts; truncated: the share of texts that were cut at the model's length.
    per_label:  texts per label; per_length: texts per bucket length, the smallest that fits each.
    unlabelled: the model's classes without any text.
    empty:      bucket lengths in which no text starts (shorter samples may still reach them after compaction).
    """

    model_config = ConfigDict(frozen=True)

    data: str
    data_sha256: str
    samples: int
    tokens: int
    truncated: float
    per_label: dict[str, int]
    per_length: dict[int, int]
    unlabelled: list[str]
    empty: list[int]


@dataclass(frozen=True)
class CalibrationSet:
    """Tokenised calibration texts, cut at the model's length, with their coverage."""

    examples: Sequence[Example]
    samples: Sequence[Tokens]
    coverage: Coverage

    @classmethod
    def of(
        cls,
        data: str,
        examples: Sequence[Example],
        samples: Sequence[Tokens],
        pad_token_id: int,
        labels: Sequence[str],
        buckets: Sequence[Bucket],
    ) -> CalibrationSet:
        """From examples and their tokens, cut at the model's length.

        pad_token_id, labels: the model's. Raises InputError, with every problem, for fewer than FEWEST texts and for
        texts that are all padding or hold no token but the special ones.
        """
        _refuse(data, samples, pad_token_id)
        lengths = sorted({bucket.length for bucket in buckets})
        per_length = Counter(smallest_holding(len(s), lengths, f"calibration {data}") for s in samples)
        per_label = Counter(name for example in examples for name in _names(example))
        coverage = Coverage(
            data=data,
            data_sha256=examples_digest(examples),
            samples=len(samples),
            tokens=sum(map(len, samples)),
            truncated=sum(s.full_length > len(s) for s in samples) / len(samples),
            per_label=dict(sorted(per_label.items())),
            per_length={length: per_length[length] for length in lengths},
            unlabelled=[label for label in labels if not per_label[label]],
            empty=[length for length in lengths if not per_length[length]],
        )
        return cls(examples, samples, coverage)


def _names(example: Example) -> Sequence[str]:
    """The labels of a text; spans and answers are none of it."""
    if example.target is None:
        return [example.label]
    return example.target.names if isinstance(example.target, Labels) else ()


def _refuse(data: str, samples: Sequence[Tokens], pad_token_id: int) -> None:
    problems = []
    if len(samples) < FEWEST:
        problems.append(f"expected at least {FEWEST} texts, found {len(samples)}; name a larger set with --calibration")
    blank = [n for n, s in enumerate(samples, 1) if _content(s, pad_token_id) <= 0]
    if blank:
        shown = ", ".join(map(str, blank[:_SHOWN])) + (", ..." if len(blank) > _SHOWN else "")
        problems.append(f"{len(blank)} texts hold padding or special tokens only: rows {shown}; remove them")
    if problems:
        raise InputError.listing(f"calibration {data}", problems)


def _content(sample: Tokens, pad_token_id: int) -> int:
    return sum(token != pad_token_id for token in sample.input_ids) - _SPECIAL
