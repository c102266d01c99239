"""Correlations of two rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pearson(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The linear correlation; NaN where either side is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(ours, theirs)[0, 1])


def spearman(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The correlation of the ranks, equal values sharing the mean of theirs; NaN where either side is constant."""
    return pearson(ranks(ours), ranks(theirs))


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 1."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[group].tolist()
