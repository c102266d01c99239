"""Gate 4: the engines' task metric against the dense model's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from calib.data import Example, is_number
from engines.artifact import Figures, Gate, Head
from pipeline.model.config import HeadConfig


def accuracy(head: Head | HeadConfig, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> float:
    """Share of right labels; for regression the Pearson correlation, NaN where either side is constant."""
    if head.kind == "regression":
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.corrcoef([float(x[0]) for x in logits], [float(e.label) for e in examples])[0, 1])
    right = [head.labels[int(x.argmax())] == e.label for x, e in zip(logits, examples, strict=True)]
    return sum(right) / len(right)


def labelled(head: Head | HeadConfig, examples: Sequence[Example]) -> bool:
    """Whether the labels are the head's classes, or numbers for a regression, so that a metric means something."""
    if head.kind == "regression":
        return all(is_number(example.label) for example in examples)
    return {example.label for example in examples} <= set(head.labels)


def drop_points(dense: float, ours: float) -> float:
    """Points that a metric is lower; 0.879 - 0.869 is 1, though a little over 0.01 in binary."""
    return round(100 * (dense - ours), 9)


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
