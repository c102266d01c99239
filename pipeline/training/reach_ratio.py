"""Moves all learned decisions by one common amount, so that the model that removes tokens has the wanted FLOPs ratio.

Relaxed training steers a model whose tokens are partly alive; removing them for real shifts the scores a little. The
hard phase starts from the ratio that was asked for, and the weights then get used to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.model.pruners import LTP_FLOOR, LtpPruner, Pruner, TranskimmerPruner

_WIDEST = 16.0
"""Farthest that decisions move: as good as all tokens live, or all but the first die, in front of it."""
_FIRST, _FINEST = 0.25, 0.001
"""The first step, and the width of an interval that is not divided further."""
_ABOVE_SCORES = 2.0
"""No score of LTP's is above 1."""
_NEAR = 0.004
"""A ratio is met from this share of it on either side."""


def reach_ratio(pruner: Pruner, ratio: float, measure: Callable[[], float]) -> float:
    """Finds the amount with which `measure()` returns `ratio`; returns the last measurement.

    LTP's thresholds are multiplied by exp(amount); the amount lowers Transkimmer's keep logits. Other pruners have
    nothing learned and stay as they are. Steps double until the ratio is passed; then the interval is bisected.
    """
    tuned, reached = _tuned(pruner), measure()
    start = [value.detach().clone() for value in tuned]

    def moved(amount: float) -> float:
        with torch.no_grad():
            for value, initial in zip(tuned, start, strict=True):
                value.copy_(_scaled(initial, amount) if isinstance(pruner, LtpPruner) else initial - amount)
        return measure()

    above, inner, outer = reached > ratio, 0.0, math.copysign(_FIRST, ratio - reached)
    while tuned and abs(reached - ratio) > _NEAR * ratio and abs(outer) < _WIDEST:
        reached = moved(outer)
        if (reached > ratio) != above:
            break
        inner, outer = outer, 2 * outer
    while tuned and abs(reached - ratio) > _NEAR * ratio and abs(outer - inner) > _FINEST:
        middle = (inner + outer) / 2
        reached = moved(middle)
        inner, outer = (middle, outer) if (reached > ratio) == above else (inner, middle)
    return reached


def _scaled(thresholds: Tensor, amount: float) -> Tensor:
    """Thresholds times exp(amount). One that training brought below the floor decides as that, and rises from there."""
    return (thresholds.clamp_min(LTP_FLOOR) * math.exp(amount)).clamp(LTP_FLOOR, _ABOVE_SCORES)


def _tuned(pruner: Pruner) -> list[Tensor]:
    """Views of the numbers that move."""
    if isinstance(pruner, LtpPruner):
        assert pruner.thresholds is not None, "LtpPruner.learn() comes before training"
        return [pruner.thresholds.data]
    if isinstance(pruner, TranskimmerPruner):
        return [cast(nn.Linear, cast(nn.Sequential, p)[-1]).bias.data[1:] for p in pruner.predictors.values()]
    return []
