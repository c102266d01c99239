"""How logits are read, where a head leaves a choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from engines.errors import InputError

Aggregation = Literal["none", "simple", "first", "average", "max"]


@dataclass(frozen=True)
class Reading:
    """What is made of the logits; `None` leaves it to the model.

    aggregation: of tagged tokens, as in transformers: "none" gives every token, "simple" joins neighbours of one
                 label, "first", "average" and "max" first give every word one label, by its pieces.
    answers:     most answers to a question.
    max_answer:  most tokens of an answer.
    no_answer:   whether a question may have none.
    stride:      tokens that neighbouring windows of a text share, where it is too long to be asked about at once.
    threshold:   from which probability on a label of many is given.
    Raises InputError.
    """

    aggregation: Aggregation = "simple"
    answers: int = 1
    max_answer: int = 15
    no_answer: bool | None = None
    threshold: float | None = None
    stride: int = 128

    def __post_init__(self) -> None:
        problems = [
            f"{name}: expected at least 1, found {value}"
            for name, value in (("answers", self.answers), ("max_answer", self.max_answer))
            if value < 1
        ]
        if self.stride < 0:
            problems.append(f"stride: expected at least 0, found {self.stride}")
        if self.aggregation not in get_args(Aggregation):
            problems.append(f"aggregation: expected {', '.join(get_args(Aggregation))}, found {self.aggregation!r}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            problems.append(f"threshold: expected 0 to 1, found {self.threshold}")
        if problems:
            raise InputError.listing("reading", problems)


PLAIN = Reading()
