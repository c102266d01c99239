"""Names of the operator and of the tensors that a stage graph takes and returns: what exporter and runners agree on."""

from __future__ import annotations

OPERATOR, DOMAIN = "TokenCompact", "skimrt"
"""Of the node that ends every stage but the last."""
FIRST_INPUTS = ("input_ids", "token_type_ids", "alive")
"""Of stage 0, each [B, S] int32. `alive` is 1 on real tokens, which come first, and 0 on padding."""
LATER_INPUTS = ("hidden", "alive", "position")
"""Of the others: [B, S, D] float, [B, S] int32, [B, S] int32 (index in the original sequence)."""
CUT_OUTPUTS = ("packed", "packed_alive", "packed_position", "count")
"""Of a stage that ends at a cut, those of TokenCompact: [B, S, D], [B, S] int32, [B, S] int32, [B] int32."""
CARRIED = dict(zip(LATER_INPUTS, CUT_OUTPUTS, strict=False))
"""What a later stage takes, to what the one before it calls the same."""
LAST_OUTPUTS = ("logits", "final_alive", "final_position")
"""Of the last stage: [B, classes] fp32, [B, S] int32, [B, S] int32."""
LAST_OUTPUTS_TOKEN_LEVEL = ("final_hidden", "final_alive", "final_position")
"""Of the last stage in front of a token-level head: [B, S, D], [B, S] int32, [B, S] int32."""
HEAD_INPUTS, HEAD_OUTPUTS = ("hidden",), ("logits",)
"""Of the token-level head: [B, S, D] in the original order, [B, S, classes]."""

INPUT_NAMES = frozenset({*FIRST_INPUTS, *LATER_INPUTS, *HEAD_INPUTS})
OUTPUT_NAMES = frozenset({*CUT_OUTPUTS, *LAST_OUTPUTS, *LAST_OUTPUTS_TOKEN_LEVEL, *HEAD_OUTPUTS})


def resident(later: bool, token_level: bool) -> list[str]:
    """The tensors of a stage that stay on a GPU between calls: the rows that it takes, and those that it leaves.

    later: the stage is not the first one. A token-level head reads on the host the states in which tokens died.
    """
    return [*(LATER_INPUTS if later else ()), *(() if token_level else (CARRIED["hidden"],))]
