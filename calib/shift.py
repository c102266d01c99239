"""Whether two sets of inputs look alike: vocabulary, length and retention, each against chance regroupings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from engines.tokenization import Tokens

_REGROUPINGS = 99
"""Random regroupings of the pooled samples: a set like the other exceeds all of them once in a hundred."""


class Divergence(BaseModel):
    """How far calibration data are from the gates' data in one respect, in [0, 1].

    by_chance: the largest distance among 99 random regroupings of the two sets into two of the same sizes (a
    permutation test); `shifted` iff `distance` is larger, so that alike sets are flagged with probability 0.01.
    """

    model_config = ConfigDict(frozen=True)

    of: str
    distance: float
    by_chance: float

    @property
    def shifted(self) -> bool:
        """Whether the two sets differ by more than chance."""
        return self.distance > self.by_chance


def divergences(
    ours: Sequence[Tokens],
    theirs: Sequence[Tokens],
    our_rows: np.ndarray,
    their_rows: np.ndarray,
) -> list[Divergence]:
    """Vocabulary (Jensen-Shannon divergence, base 2, of the token counts), real length and mean keep ratio over the
    layers (Kolmogorov-Smirnov distance of each) of two sets. Deterministic.

    our_rows, their_rows: [samples, 1 + layers], the real length, then the rows behind each layer's decision.
    """
    vocabulary, word = np.unique(np.concatenate([s.input_ids for s in (*ours, *theirs)]), return_inverse=True)
    ends = np.cumsum([len(s) for s in (*ours, *theirs)])[:-1]
    words = np.stack([np.bincount(part, minlength=len(vocabulary)) for part in np.split(word, ends)])
    words = words.astype(np.float32)  # so that regroupings are summed by one fast product each
    rows = np.concatenate([our_rows, their_rows])
    lengths, kept = rows[:, 0], rows[:, 1:].mean(1) / rows[:, 0]
    return [
        _against_chance("vocabulary", words, len(ours), _jensen_shannon),
        _against_chance("length", lengths, len(ours), _kolmogorov_smirnov),
        _against_chance("retention", kept, len(ours), _kolmogorov_smirnov),
    ]


def shift_warning(found: Sequence[Divergence], data: str, reference: str) -> str | None:
    """Returns the warning for a shifted calibration set; None for a set like the gates' data."""
    shifted = [f"{d.of} ({d.distance:.3f}, by chance up to {d.by_chance:.3f})" for d in found if d.shifted]
    if not shifted:
        return None
    return (
        f"calibration {data} differs from {reference} in {', '.join(shifted)}: INT8 ranges may not fit what the model "
        "will see; calibrate with texts like those that it will serve"
    )


def _against_chance(
    name: str, pooled: np.ndarray, ours: int, distance: Callable[[np.ndarray, np.ndarray], float]
) -> Divergence:
    generator, first = np.random.default_rng(0), np.arange(len(pooled)) < ours
    chance = max(distance(pooled, generator.permutation(first)) for _ in range(_REGROUPINGS))
    return Divergence(of=name, distance=distance(pooled, first), by_chance=chance)


def _jensen_shannon(counts: np.ndarray, first: np.ndarray) -> float:
    """Jensen-Shannon divergence (Lin, 1991, eq. 4.1, equal weights, base 2) of the summed counts [samples, words]."""
    sums = [mask.astype(np.float32) @ counts for mask in (first, ~first)]
    p, q = (total / total.sum() for total in sums)
    middle = (p + q) / 2
    return float(sum((x[x > 0] * np.log2(x[x > 0] / middle[x > 0])).sum() for x in (p, q)) / 2)


def _kolmogorov_smirnov(values: np.ndarray, first: np.ndarray) -> float:
    """Largest distance of the two empirical distribution functions of values [samples]."""
    shares = [np.searchsorted(np.sort(x), values, side="right") / len(x) for x in (values[first], values[~first])]
    return float(np.abs(shares[0] - shares[1]).max())
