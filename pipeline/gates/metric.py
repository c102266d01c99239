"""Gate 4: the engines' task metric against the dense model's."""

from __future__ import annotations

import math

from calib.metric import drop_points
from engines.artifact import Figures, Gate
from pipeline.gates.verdict import verdict


def task_metric(ours: float, dense: float | None, count: int, max_drop: float) -> Gate:
    """Fails when the metric drops by more than `max_drop` points against dense; SKIPPED without dense's metric."""
    figures: Figures = {"examples": count}
    if math.isfinite(ours):
        figures["metric"] = ours
    if dense is None or not math.isfinite(dense):
        reason = "no dense checkpoint to compare with; name one with --dense"
        if dense is not None:
            reason = f"the dense model's metric is undefined on these {count} examples"
        return verdict("task metric", figures, [], nothing=reason)
    drop = drop_points(dense, ours)
    figures |= {"dense_metric": dense, "budget_points": max_drop}
    if math.isfinite(drop):
        figures["drop_points"] = round(drop, 4)
    reason = f"the metric is {ours:.4f}, dense {dense:.4f}: {drop:.2f} points lower, the budget is {max_drop}"
    return verdict("task metric", figures, [] if drop <= max_drop else [reason])  # NaN fails too
