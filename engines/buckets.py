"""Buckets: the static shapes that a stage is compiled for, and which of them a number of rows goes into."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engines.errors import InputError, validation_problems
from engines.limits import CALL_TOKENS

SHORTEST = 16
"""Shortest length of the default buckets: below it what a call costs anyway outweighs its rows."""


class Bucket(BaseModel):
    """A static shape: `batch` samples of `length` rows. Written `8x128`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: Annotated[int, Field(gt=0)]
    length: Annotated[int, Field(gt=0)]

    @model_validator(mode="after")
    def _a_call_has_an_end(self) -> Bucket:
        if self.batch * self.length > CALL_TOKENS:
            raise ValueError(f"expected a bucket of at most {CALL_TOKENS} tokens, found {self}")
        return self

    def __str__(self) -> str:
        return f"{self.batch}x{self.length}"

    def __lt__(self, other: Bucket) -> bool:
        return (self.batch, self.length) < (other.batch, other.length)


def default_buckets(max_length: int, batches: Iterable[int] = (1, 8)) -> list[Bucket]:
    """Powers of two from 16 up, in steps of a quarter (below 32 of a half), and `max_length`, for every batch size.

    Neighbouring lengths are at most a factor 1.5 apart and from 32 up at most 1.25, so that a long sample computes at
    most a quarter more than it needs, and a tenth more in the mean.
    """
    lengths: list[int] = []
    octave = SHORTEST
    while octave < max_length:
        step = octave // 2 if octave < 2 * SHORTEST else octave // 4
        lengths += range(octave, 2 * octave, step)
        octave *= 2
    lengths = [length for length in lengths if length < max_length] + [max_length]
    return [Bucket(batch=batch, length=length) for batch in sorted(set(batches)) for length in lengths]


def within_budget(buckets: Iterable[Bucket], tokens: int) -> list[Bucket]:
    """These buckets and, for every length, the largest batch of at most `tokens` tokens; sorted.

    Such a batch is a multiple of the largest one that the length already has, and not added unless it is larger.
    """
    largest: dict[int, int] = {}
    for bucket in (chosen := set(buckets)):
        largest[bucket.length] = max(bucket.batch, largest.get(bucket.length, 0))
    multiples = {length: tokens // (batch * length) for length, batch in largest.items()}
    chosen |= {Bucket(batch=largest[length] * many, length=length) for length, many in multiples.items() if many > 1}
    return sorted(chosen)


def parse_buckets(text: str) -> list[Bucket]:
    """Buckets of `1x128,8x128` (batch x length), sorted. Raises InputError with every part that is wrong."""
    buckets, problems = [], []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9][0-9]{0,5})x([1-9][0-9]{0,5})\s*", part)
        if match is None:
            problems.append(f"expected batch x length such as 8x128, found {part.strip()!r}")
            continue
        try:
            bucket = Bucket(batch=int(match[1]), length=int(match[2]))
        except ValidationError as error:
            problems += validation_problems(error)
            continue
        if bucket in buckets:
            problems.append(f"{bucket} is given twice")
        buckets.append(bucket)
    if problems:
        raise InputError.listing(f"buckets {text!r}", problems)
    return sorted(buckets)


def format_buckets(buckets: Iterable[Bucket]) -> str:
    """The inverse of `parse_buckets`."""
    return ",".join(str(bucket) for bucket in sorted(buckets))


def smallest_holding(count: int, sizes: Sequence[int], what: str) -> int:
    """The smallest of `sizes` (ascending) that holds `count`; InputError, naming `what`, when none does."""
    index = bisect_left(sizes, count)
    if index == len(sizes):
        raise InputError(
            f"{what}: {count} exceeds the largest bucket, {sizes[-1]}; build the artifact with a larger one"
        )
    return sizes[index]
