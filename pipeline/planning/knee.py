"""The knee: the tokens in flight below which a call of a stage costs the same, so that fewer of them gain nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WORTH = 0.05
"""The share of a call's time that its tokens must make up. Below it, dropping even all of them saves less."""

_SHORTEST = 1e-12
"""Seconds below which none are told apart, as those of a stage without any layer in a cost model."""


@dataclass(frozen=True)
class Knee:
    """A call's time as a line, `fixed + per_token * tokens`, in seconds; tokens are batch times length."""

    fixed: float
    per_token: float

    @property
    def tokens(self) -> float:
        """The tokens in flight at the knee; infinite where no number of them makes a call longer."""
        if self.per_token <= 0:
            return float("inf")
        return WORTH / (1 - WORTH) * self.fixed / self.per_token

    @classmethod
    def fit(cls, tokens: Sequence[int], seconds: Sequence[float]) -> Knee:
        """Fits the line to measured calls by least squares of relative errors, with neither part below zero."""
        x, y = np.asarray(tokens, float), np.asarray(seconds, float)
        weights = 1 / np.maximum(y, _SHORTEST) ** 2
        mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
        spread = np.average((x - mean_x) ** 2, weights=weights)
        slope = np.average((x - mean_x) * (y - mean_y), weights=weights) / spread if spread else 0.0
        fixed = mean_y - slope * mean_x
        if slope <= 0:
            return cls(float(mean_y), 0.0)
        if fixed <= 0:  # the best line through the origin
            return cls(0.0, float(np.average(x * y, weights=weights) / np.average(x * x, weights=weights)))
        return cls(float(fixed), float(slope))
