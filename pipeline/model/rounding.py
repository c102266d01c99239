"""When a decision is a matter of rounding: how near its threshold a score is that another run may decide otherwise.

Two runs of the same model add up the same numbers in another order. A decision that this can turn is no fault, and
every gate excuses it by one of the two rules here: by the scores' scale, where both runs are in fp32, and by what
scores were seen to move by, where one is in a narrower precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

EXECUTIONS = 1e-5
"""Share of the scores' scale by which two executions in one PyTorch differ: the same operators on fewer rows."""
STAGE = 1e-4
"""The same of one stage in another library, fed with PyTorch's own state."""
CHAIN = 1e-3
"""The same of all stages in another library, each fed with what the one in front of it gave."""
_NEAREST = 16
"""Scores by which it is judged what a narrower precision moves near a threshold; scores far above it move by more."""


def scale(score: Tensor) -> float:
    """The median magnitude of scores, NaN left out; 0 of none."""
    values = score[~torch.isnan(score)]
    return float(values.abs().median()) if len(values) else 0.0


def moved_near(score: Tensor, other: Tensor, threshold: float) -> Tensor:
    """[..., 1]: twice the most by which any of the scores nearest to the threshold moved from one run to the other.

    score, other: [..., tokens] of two runs, NaN for tokens that a run has lost. Twice, because what rounds in other
    places may move a score as far the other way.
    """
    moved = (score - other).abs()
    gap = torch.where(moved.isnan(), torch.inf, (score - threshold).abs())
    nearest = gap.topk(min(_NEAREST, gap.shape[-1]), dim=-1, largest=False).indices
    return 2 * moved.nan_to_num().gather(-1, nearest).amax(-1, keepdim=True)
