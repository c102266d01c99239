"""The parts of an encoder that not every family has, as checkpoint.json describes them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """A part that is fixed once it is made, and that has no fields but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RelativeBias(Strict):
    """One bias for each head and bucket of distances, added to the logits of every layer (T5's, as in MPNet).

    Half of the buckets are for keys behind the query; half of those hold one distance, the others grow by a constant
    factor up to `max_distance`.
    """

    buckets: Annotated[int, Field(ge=4, multiple_of=4)] = 32
    max_distance: Positive = 128


class Disentangled(Strict):
    """Disentangled attention (He et al., 2021): content and position are multiplied apart.

    content_to_position, position_to_content: which of the two products are added to the logits.
    buckets:            distances on each side that have an embedding, in logarithmic steps; 0: every one has its own.
    max_distance:       the last distance that has one of its own bucket.
    shared_projections: positions go through the projections of the content.
    normalised:         the table of embeddings goes through a layer norm.
    """

    content_to_position: bool = True
    position_to_content: bool = True
    buckets: NonNegative = 256
    max_distance: Positive = 512
    shared_projections: bool = True
    normalised: bool = True

    @property
    def span(self) -> int:
        """Distances on each side that have an embedding."""
        return self.buckets or self.max_distance

    @property
    def products(self) -> int:
        """Products with positions beside that of the contents."""
        return self.content_to_position + self.position_to_content


class Rope(Strict):
    """Rotary positions; local layers may turn by a theta of their own."""

    theta: float = Field(gt=0, allow_inf_nan=False)
    local_theta: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class LocalAttention(Strict):
    """Layers but the global ones see keys of at most `distance` positions away, in the original text."""

    distance: NonNegative
    global_layers: list[NonNegative]
