"""Steers a run to a wanted FLOPs ratio: the weight of the cost follows the distance to the goal."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class FlopsBudget:
    """A proportional-integral controller of the weight of the cost in the loss.

    ratio:     dense FLOPs over pruned FLOPs to reach.
    ramp:      share of the run over which the goal moves from 1 to `ratio`; a model that is pressed at once prunes
               before it has learned to do without.
    """

    ratio: float
    ramp: float = 0.5
    proportional: float = 4.0
    integral: float = 0.02
    accumulated: float = 0.0
    average: float = 1.0
    smoothing: float = 0.9

    def loss(self, cost: Tensor, progress: float) -> Tensor:
        """The term to add to the loss for a batch's relative cost (pruned over dense FLOPs), `progress` in [0, 1]."""
        share = min(1.0, progress / self.ramp) if self.ramp > 0 else 1.0
        goal = 1.0 / (1.0 + (self.ratio - 1.0) * share)
        self.average = self.smoothing * self.average + (1 - self.smoothing) * float(cost.detach())
        excess = self.average / goal - 1.0
        self.accumulated = min(max(self.accumulated + self.integral * excess, 0.0), 10.0)
        return max(0.0, self.accumulated + self.proportional * excess) * cost
