"""Gate 4: the engines' task metric against the dense model's."""

from __future__ import annotations

import math

from calib.metric import drop_points
from engines.artifact import Figures, Gate


def task_metric(ours: float, dense: float | None, count: int, max_drop: float) -> Gate:
    """Fails when the metric drops by more than `max_drop` points against dense; SKIPPED without dense's metric."""
    figures: Figures = {"examples": count}
    if math.isfinite(ours):
        figures["metric"] = ours
    if dense is None or not math.isfinite(dense):
        reason = "no dense checkpoint to compare with; name one with --dense"
        if dense is not None:
            reason = f"the dense model's metric is undefined on these {count} examples"
        return Gate(name="task metric", status="SKIPPED", reason=reason, figures=figures)
    drop = drop_points(dense, ours)
    figures |= {"dense_metric": dense, "budget_points": max_drop}
    if math.isfinite(drop):
        figures["drop_points"] = round(drop, 4)
    if not drop <= max_drop:  # also NaN
        reason = f"the metric is {ours:.4f}, dense {dense:.4f}: {drop:.2f} points lower, the budget is {max_drop}"
        return Gate(name="task metric", status="FAILED", reason=reason, figures=figures)
    return Gate(name="task metric", status="PASSED", figures=figures)
