"""Gate 4: the engines' task metric against the dense model's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib.data import Example
from engines.artifact import Gate, Head


def accuracy(head: Head, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> float:
    """Share of right labels; for regression the Pearson correlation."""
    if head.kind == "regression":
        return float(np.corrcoef([float(x[0]) for x in logits], [float(e.label) for e in examples])[0, 1])
    right = [head.labels[int(x.argmax())] == e.label for x, e in zip(logits, examples, strict=True)]
    return sum(right) / len(right)


def task_metric(ours: float, dense: float | None, count: int, max_drop: float) -> Gate:
    """Fails when the metric drops by more than `max_drop` points against dense; SKIPPED without a dense model."""
    figures: dict[str, float | int | str] = {"examples": count, "metric": ours}
    if dense is None:
        reason = "no dense checkpoint to compare with; name one with --dense"
        return Gate(name="task metric", status="SKIPPED", reason=reason, figures=figures)
    drop = 100 * (dense - ours)
    figures |= {"dense_metric": dense, "drop_points": round(drop, 4), "budget_points": max_drop}
    if drop > max_drop:
        reason = f"the metric is {ours:.4f}, dense {dense:.4f}: {drop:.2f} points lower, the budget is {max_drop}"
        return Gate(name="task metric", status="FAILED", reason=reason, figures=figures)
    return Gate(name="task metric", status="PASSED", figures=figures)
