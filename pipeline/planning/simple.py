"""A plan without a cost model: cut wherever enough tokens have died since the last cut."""

from __future__ import annotations

from collections.abc import Sequence

from engines.errors import InputError
from pipeline.graph.stages import decision_layers
from pipeline.model.transformer import PrunedTransformer

_WORTH_A_CUT = 0.95
"""A cut is made where the mean number of rows is below this share of the rows that entered the stage. A smaller saving
does not pay for moving the rows.
"""


def choose_cuts(model: PrunedTransformer, stages: str, mean_rows: Sequence[float]) -> list[int]:
    """Returns the layers whose decisions end a stage.

    stages:    "auto"; a number of stages such as "3", evenly spread; or layers such as "1,3". A trailing comma makes a
               list of one.
    mean_rows: mean rows per sample: the real length, then after each layer's decision. "auto" needs them.
    Raises InputError for anything else.
    """
    possible = decision_layers(model)
    if model.config.head.token_level:
        if stages != "auto":
            raise InputError(f"stages {stages!r}: a {model.config.head.kind} head is cut at every decision; use auto")
        return possible
    if stages == "auto":
        cuts, entered = [], mean_rows[0]
        for layer in possible:
            if mean_rows[layer + 1] < _WORTH_A_CUT * entered:
                cuts.append(layer)
                entered = mean_rows[layer + 1]
        return cuts
    parts = [part.strip() for part in stages.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise InputError(f"stages {stages!r}: expected auto, a number of stages, or layers such as 1,3")
    if "," in stages:
        return sorted({int(part) for part in parts})
    wanted = int(parts[0]) - 1
    if not 0 <= wanted <= len(possible):
        raise InputError(
            f"stages {stages}: this {model.config.pruner.method} model has {len(possible)} decision points, "
            f"so 1 to {len(possible) + 1} stages"
        )
    return (
        [possible[(i + 1) * len(possible) // (wanted + 1)] for i in range(wanted)]
        if wanted < len(possible)
        else possible
    )
