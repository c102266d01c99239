"""What a model predicts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from engines.limits import LABELS


class Head(BaseModel):
    """What the model predicts. `labels` are the names by index; regression has exactly one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["classification", "regression", "question_answering", "tagging"] = "classification"
    labels: list[str] = Field(min_length=1, max_length=LABELS)

    @property
    def token_level(self) -> bool:
        """Whether the head reads every token's state, not only the first one's."""
        return self.kind in ("question_answering", "tagging")
