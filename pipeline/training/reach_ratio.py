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

from pipeline.model.pruners import LtpPruner, Pruner, TranskimmerPruner

_WIDEST = 4.0
_STEPS = 9


def reach_ratio(pruner: Pruner, ratio: float, measure: Callable[[], float]) -> float:
    """Bisects the amount until `measure()` returns `ratio`; returns the last measurement.

    LTP's thresholds are multiplied by exp(amount); the amount lowers Transkimmer's keep logits. Other pruners have
    nothing learned and stay as they are.
    """
    tuned = _tuned(pruner)
    if not tuned:
        return measure()
    start = [value.detach().clone() for value in tuned]
    low, high, found = -_WIDEST, _WIDEST, math.nan
    for _ in range(_STEPS):
        amount = (low + high) / 2
        with torch.no_grad():
            for value, initial in zip(tuned, start, strict=True):
                value.copy_(initial * math.exp(amount) if isinstance(pruner, LtpPruner) else initial - amount)
        found = measure()
        if found < ratio:
            low = amount
        else:
            high = amount
    return found


def _tuned(pruner: Pruner) -> list[Tensor]:
    """Views of the numbers that move."""
    if isinstance(pruner, LtpPruner):
        assert pruner.thresholds is not None, "LtpPruner.learn() comes before training"
        return [pruner.thresholds.data]
    if isinstance(pruner, TranskimmerPruner):
        return [cast(nn.Linear, cast(nn.Sequential, p)[-1]).bias.data[1:] for p in pruner.predictors.values()]
    return []
