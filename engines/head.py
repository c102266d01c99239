"""What a model predicts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from engines.limits import LABELS
from engines.plan import repeated
from engines.tokenization import text_problem


HeadKind = Literal["classification", "regression", "ranking", "question_answering", "tagging"]


class Head(BaseModel):
    """What the model predicts. `labels` are the names by index, all different; regression and ranking have one.

    A ranking head scores pairs (query, passage).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: HeadKind = "classification"
    labels: list[str] = Field(min_length=1, max_length=LABELS)

    @field_validator("labels")
    @classmethod
    def _can_be_told_apart(cls, labels: list[str]) -> list[str]:
        if twice := repeated(labels):
            raise ValueError(
                f"every label must be another one, {twice[0]!r:.80} is there {labels.count(twice[0])} times"
            )
        for label in labels:
            if not label.strip():
                raise ValueError(f"expected names, found {label!r}")
            if (problem := text_problem(label)) is not None:
                raise ValueError(f"label {label!r}: {problem}")
        return labels

    @property
    def one_value(self) -> bool:
        """Whether the only output is a number by itself, a score or an amount, and no class."""
        return self.kind in ("regression", "ranking")

    @property
    def token_level(self) -> bool:
        """Whether the head reads every token's state, not only the first one's."""
        return self.kind in ("question_answering", "tagging")
