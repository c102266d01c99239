"""Gate 4: the engines' task metric against the dense model's and, in INT8, against the model's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from calib.metric import JUDGED, drop_points
from engines.manifest import Figures, Gate
from pipeline.gates.verdict import verdict


def task_metric(
    ours: float,
    dense: float | None,
    count: int,
    max_drop: float,
    others: Mapping[str, tuple[float, float | None]] = MappingProxyType({}),
) -> Gate:
    """Fails when the metric drops by more than `max_drop` points against dense; SKIPPED without dense's metric.

    others: further figures by name, ours and dense's, of which those in `JUDGED` have the same budget.
    """
    figures: Figures = {"examples": count}
    if math.isfinite(ours):
        figures["metric"] = ours
    for name, pair in others.items():
        figures |= {key: v for key, v in zip((name, f"dense_{name}"), pair, strict=True) if v is not None and v == v}
    if dense is None or not math.isfinite(dense):
        reason = "no dense checkpoint to compare with; name one with --dense"
        if dense is not None:
            reason = f"the dense model's metric is undefined on these {count} examples"
        return verdict("task metric", figures, [], nothing=reason)
    drop = drop_points(dense, ours)
    figures |= {"dense_metric": dense, "budget_points": max_drop}
    if math.isfinite(drop):
        figures["drop_points"] = round(drop, 4)
    judged = {"metric": (ours, dense), **{name: others[name] for name in others if name in _ALSO_JUDGED}}
    reasons = []
    for name, (mine, theirs) in judged.items():
        lost = math.nan if theirs is None else drop_points(theirs, mine)
        if not lost <= max_drop:  # NaN fails too
            reasons.append(
                f"the {name} is {mine:.4f}, dense {theirs:.4f}: {lost:.2f} points lower, the budget is {max_drop}"
            )
    return verdict("task metric", figures, reasons)


_ALSO_JUDGED = {name for names in JUDGED.values() for name in names[1:]}
INT8_NAME = "INT8 against the wider precision"


def int8_metric(ours: float, wide: float, count: int, max_drop: float) -> Gate:
    """Fails when INT8 engines lose more than `max_drop` points against the unquantised model."""
    if not math.isfinite(wide):
        reason = f"the unquantised model's metric is undefined on these {count} examples"
        return verdict(INT8_NAME, {"examples": count}, [], nothing=reason)
    gate = task_metric(ours, wide, count, max_drop)
    figures: Figures = {name.replace("dense", "wide"): value for name, value in gate.figures.items()}
    return gate.model_copy(
        update={"name": INT8_NAME, "figures": figures, "reason": gate.reason.replace("dense", "unquantised")}
    )


def int8_changed(share: float, count: int, max_percent: float) -> Gate:
    """Without labels: fails when more than `max_percent` percent of the texts get another answer than unquantised."""
    percent = 100 * share
    figures: Figures = {"examples": count, "other_answers_percent": round(percent, 4), "budget_percent": max_percent}
    reason = f"{percent:.2f} percent of the texts get another answer, the budget is {max_percent}"
    return verdict(INT8_NAME, figures, [] if percent <= max_percent else [reason])
