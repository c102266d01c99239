"""What a model predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from engines.limits import LABELS, Width
from engines.plan import repeated
from engines.tokenization import text_problem

HeadKind = Literal[
    "classification", "multi_label", "regression", "ranking", "embedding", "question_answering", "tagging"
]


@dataclass(frozen=True)
class Kind:
    """What sets a kind of head apart.

    per_token: it gives logits for every token, from the state in which each was last processed.
    labels:    what its outputs are: classes with names, one value, the two ends of a span, or numbers without names.
    """

    per_token: bool = False
    labels: Literal["classes", "value", "ends", "none"] = "classes"


KINDS: dict[HeadKind, Kind] = {
    "classification": Kind(),
    "multi_label": Kind(),
    "regression": Kind(labels="value"),
    "ranking": Kind(labels="value"),
    "embedding": Kind(labels="none"),
    "question_answering": Kind(per_token=True, labels="ends"),
    "tagging": Kind(per_token=True),
}


class Head(BaseModel):
    """What the model predicts. A ranking head scores pairs (query, passage).

    labels:     the names of the outputs by index, all different; regression and ranking have one, an embedding none.
    size:       numbers of an embedding.
    pooling:    what a head that is not for tokens reads: the first token's state, or the mean of all tokens' states, of
                dropped ones the last.
    thresholds: from which probability on each label of `multi_label` is given; None: 0.5.
    no_answer:  whether a question may have no answer in its text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: HeadKind = "classification"
    labels: list[str] = Field([], max_length=LABELS, validate_default=True)
    size: Width | None = None
    pooling: Literal["first", "mean"] = "first"
    thresholds: list[Annotated[float, Field(ge=0, le=1)]] | None = None
    no_answer: bool = False

    @field_validator("labels")
    @classmethod
    def _can_be_told_apart(cls, labels: list[str], info: ValidationInfo) -> list[str]:
        named = KINDS[info.data.get("kind", "classification")].labels != "none"
        if named != bool(labels):
            raise ValueError(f"expected {'at least one label' if named else 'none'}, found {len(labels)}")
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

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Head:
        if (self.size is None) != (KINDS[self.kind].labels != "none"):
            raise ValueError(f"size: of an embedding and of no other head, found {self.size} in a {self.kind} head")
        if self.token_level and self.pooling != "first":
            raise ValueError(f"pooling: a {self.kind} head reads every token, found {self.pooling!r}")
        if self.thresholds is not None and (self.kind != "multi_label" or len(self.thresholds) != len(self.labels)):
            raise ValueError(f"thresholds: one for each label of a multi_label head, found {len(self.thresholds)}")
        if self.no_answer and self.kind != "question_answering":
            raise ValueError(f"no_answer is of a question_answering head, found a {self.kind} head")
        return self

    @property
    def token_level(self) -> bool:
        """Whether the head reads every token's state, and gives logits for each."""
        return KINDS[self.kind].per_token

    @property
    def one_value(self) -> bool:
        """Whether the only output is a number by itself, a score or an amount, and no class."""
        return KINDS[self.kind].labels == "value"

    @property
    def pools(self) -> bool:
        """Whether the head reads the mean of all tokens, to which dropped ones add what the stages pass on."""
        return self.pooling == "mean"

    @property
    def outputs(self) -> int:
        """Numbers that the head gives for a text, or for each token."""
        return self.size or len(self.labels)
