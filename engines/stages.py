"""Names of the operator and of the tensors that a stage graph takes and returns: what exporter and runners agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np

StepKind = Literal["attend", "decide", "feed"]


@dataclass(frozen=True)
class Step:
    """One step of the encoder; `decide` is a decision point, where a stage may be cut."""

    kind: StepKind
    layer: int

    @property
    def name(self) -> str:
        """As a plan has it: "attend 2"."""
        return f"{self.kind} {self.layer}"

    @classmethod
    def parse(cls, name: str) -> Step:
        """The step of a name. Raises ValueError."""
        kind, _, layer = name.partition(" ")
        if kind not in get_args(StepKind) or not layer.isdecimal():
            raise ValueError(f"expected a step such as 'attend 2', found {name!r}")
        return cls(cast("StepKind", kind), int(layer))


def original(position: np.ndarray) -> np.ndarray:
    """Places in the text of rows: those of a protected segment are carried as -1 minus their place.

    So a stage knows what it may not drop, and the operator between two stages moves it like any other row.
    """
    return np.where(position < 0, -1 - position, position)


OPERATOR, DOMAIN = "TokenCompact", "skimrt"
"""Of the node that ends every stage but the last."""
FIRST_INPUTS = ("input_ids", "token_type_ids", "alive")
"""Of stage 0, each [B, S] int32. `alive` is 1 on real tokens, which come first, and 0 on padding."""
LATER_INPUTS = ("hidden", "alive", "position")
"""Of the others: [B, S, D] float, [B, S] int32, [B, S] int32 (index in the original sequence, see `original`)."""
CUT_OUTPUTS = ("packed", "packed_alive", "packed_position", "count")
"""Of a stage that ends at a cut, those of TokenCompact: [B, S, D], [B, S] int32, [B, S] int32, [B] int32."""
CARRIED = dict(zip(LATER_INPUTS, CUT_OUTPUTS, strict=False))
"""What a later stage takes, to what the one before it calls the same."""
LAST_OUTPUTS = ("logits", "final_alive", "final_position")
"""Of the last stage: [B, outputs] fp32, [B, S] int32, [B, S] int32."""
LAST_OUTPUTS_TOKEN_LEVEL = ("final_hidden", "final_alive", "final_position")
"""Of the last stage in front of a token-level head: [B, S, D], [B, S] int32, [B, S] int32."""
POOLED, POOLED_ON = "pooled", "pooled_on"
"""What a later stage takes, and what a cut returns, where the head reads the mean of all tokens: [B, D + 1] fp32. The
rows that were dropped so far add so much to the mean; the last number is 1 over the text's length."""
HEAD_INPUTS, HEAD_OUTPUTS = ("hidden",), ("logits",)
"""Of the token-level head: [B, S, D] in the original order, [B, S, classes]."""


def tensor_names(
    unit: int, stages: int, token_level: bool, pools: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a stage, or the head behind the last one, takes and returns; pools: the head reads the mean of all."""
    if unit == stages:
        return HEAD_INPUTS, HEAD_OUTPUTS
    last = LAST_OUTPUTS_TOKEN_LEVEL if token_level else LAST_OUTPUTS
    later, cut = ((*LATER_INPUTS, POOLED), (*CUT_OUTPUTS, POOLED_ON)) if pools else (LATER_INPUTS, CUT_OUTPUTS)
    return FIRST_INPUTS if unit == 0 else later, last if unit == stages - 1 else cut


def static_shape(declared: Sequence[object], batch: int, length: int) -> tuple[int, ...]:
    """The shape that an input has in a bucket; `declared` has numbers for what is the same in all of them."""
    return tuple(
        size if isinstance(size, int) and size >= 0 else (batch, length)[axis] for axis, size in enumerate(declared)
    )


INPUT_NAMES = frozenset({*FIRST_INPUTS, *LATER_INPUTS, *HEAD_INPUTS, POOLED})
OUTPUT_NAMES = frozenset({*CUT_OUTPUTS, *LAST_OUTPUTS, *LAST_OUTPUTS_TOKEN_LEVEL, *HEAD_OUTPUTS, POOLED_ON})


def resident(later: bool, token_level: bool) -> list[str]:
    """The tensors of a stage that stay on a GPU between calls: the rows that it takes, and those that it leaves.

    later: the stage is not the first one. A token-level head reads on the host the states in which tokens died.
    """
    return [*(LATER_INPUTS if later else ()), *(() if token_level else (CARRIED["hidden"],))]
