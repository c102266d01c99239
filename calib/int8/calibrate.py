"""Prepares INT8 for a model: calibrates ranges, chooses methods, measures each layer's cost, and keeps a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict

from calib.data import Example
from calib.int8.equalise import equalised
from calib.int8.methods import Choice, best_by_kind
from calib.int8.ranges import Method, choose_ranges, collect_histograms
from calib.int8.scheme import QuantizationScheme
from calib.int8.selection import EngineChoice
from calib.int8.sensitivity import Kept, LayerCost, changed_share, divergence, hold_budget, sensitivity_table
from calib.int8.simulation import simulate
from calib.metric import accuracy, drop_points, labelled
from calib.shift import Divergence, divergences
from calib.texts import CalibrationSet, Coverage
from engines.errors import InputError
from engines.manifest import Figures, Gate
from pipeline.model.reference import Reference
from pipeline.model.transformer import PrunedTransformer

_COMPARED = 32
"""Number of texts on which methods are compared and each layer's cost is measured."""
RANGED = 256
"""Number of texts whose activations give the ranges. The budget is counted on all texts, since accuracy needs more."""


class Calibration(BaseModel):
    """Everything that decided on INT8; calibration.json of an artifact.

    shift:    how far the calibration texts are from the gates'.
    methods:  mean divergence of the answers by kind of layers and method, of which the smallest was taken.
    clipped:  share of each layer's values outside its range.
    costs:    the sensitivity table, the costliest layers first; kept: the scheme that holds the budget.
    measured_by: what the budget is counted in. engines: for every stage and bucket whether INT8 is used.
    """

    model_config = ConfigDict(frozen=True)

    coverage: Coverage
    shift: list[Divergence]
    methods: dict[str, dict[Choice, float]]
    clipped: dict[str, float]
    costs: list[LayerCost]
    kept: Kept
    measured_by: str
    engines: list[EngineChoice] = []

    @property
    def scheme(self) -> QuantizationScheme:
        """The scheme within the budget; it quantises nothing if none is."""
        return self.kept.scheme if self.kept.within_budget else self.kept.scheme.only(())

    @property
    def chosen(self) -> dict[str, Choice]:
        """The method of each kind of layers."""
        return {kind: min(costs, key=lambda method: costs[method]) for kind, costs in self.methods.items()}


class _Answers:
    """The model's answers on the calibration texts, and how a scheme changes them."""

    def __init__(self, model: PrunedTransformer, calibration: CalibrationSet) -> None:
        self.model, self.head = model, model.config.head
        self.examples, self.samples = calibration.examples, calibration.samples
        self.reference = Reference.of(model, self.samples)
        self.by_label = labelled(self.head, self.examples)
        # Where all labels are the same a correlation is undefined.
        self.by_label = self.by_label and math.isfinite(self._metric)

    def divergence(self, scheme: QuantizationScheme) -> float:
        """On the first texts."""
        expected = self.reference.first(_COMPARED)
        ours = Reference.of(simulate(self.model, scheme), expected.samples)
        return divergence(self.head, expected.logits, ours.logits)

    def drop(self, scheme: QuantizationScheme) -> float:
        """Returns the points that the metric loses; without the model's labels, the percentage of texts with another
        answer.
        """
        ours = Reference.of(simulate(self.model, scheme), self.samples)
        if not self.by_label:
            return 100 * changed_share(self.head, self.reference.logits, ours.logits)
        metric = self.metric(ours)
        return drop_points(self._metric, metric if math.isfinite(metric) else 0.0)  # answers that are all the same

    @cached_property
    def _metric(self) -> float:
        return self.metric(self.reference)

    def metric(self, answers: Reference) -> float:
        """Accuracy (regression: correlation; embedding: agreement with the wide model) on the calibration texts."""
        ours, wide = ([logits.numpy() for logits in side.logits] for side in (answers, self.reference))
        return accuracy(self.head, ours, self.examples, self.samples, wide)


@dataclass(frozen=True)
class DropBudget:
    """Points that the metric may lose against the dense model, or to INT8 alone if there is none.

    dense: returns the dense model's metric on examples.
    """

    points: float
    dense: Callable[[Sequence[Example]], float] | None = None

    def left(self, answers: _Answers) -> float:
        """Returns the points left for INT8 after the loss that pruning causes on the calibration texts."""
        if self.dense is None or not answers.by_label:
            return self.points
        lost = drop_points(self.dense(answers.examples), answers.metric(answers.reference))
        return max(0.0, self.points - max(0.0, lost)) if math.isfinite(lost) else self.points


def calibrate(
    model: PrunedTransformer,
    calibration: CalibrationSet,
    gates: Reference,
    budget: DropBudget,
    method: Method | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Calibration:
    """Ranges, method, costs and the scheme within the budget.

    gates:  the model on the texts of the gates, to notice that the calibration texts are of another kind.
    method: None takes, for each kind of layers, the one whose answers diverge least.
    """
    answers = _Answers(model, calibration)
    tick()
    histograms = collect_histograms(model, calibration.samples[:RANGED])
    tick()
    schemes: dict[Choice, QuantizationScheme]
    schemes = {name: choose_ranges(histograms, name) for name in ([method] if method else get_args(Method))}
    if method is None:
        schemes["equalised"] = equalised(model, histograms)
    scheme, methods = best_by_kind(schemes, answers.divergence)
    tick()
    costs = sensitivity_table(model, scheme, answers.reference.first(_COMPARED))
    tick()
    kept = hold_budget(scheme, costs, answers.drop, budget.left(answers))
    tick()
    return Calibration(
        coverage=calibration.coverage,
        shift=divergences(calibration.samples, gates.samples, answers.reference.rows.numpy(), gates.rows.numpy()),
        methods=methods,
        clipped={
            name: 0.0 if name in scheme.shifts else histograms[name].clipped(r) for name, r in scheme.ranges.items()
        },
        costs=costs,
        kept=kept,
        measured_by="points of the metric" if answers.by_label else "percent of texts with another label",
    )


def int8_gate(calibration: Calibration, compared: bool = True) -> Gate:
    """Returns the gate `int8`: PASSED if INT8 is used at all, else SKIPPED, with every reason against it.

    compared: whether engines of both precisions were timed; if not, INT8 is used wherever the accuracy allows it.
    """
    kept, used = calibration.kept, [choice for choice in calibration.engines if choice.int8]
    figures: Figures = {
        "int8_layers": len(calibration.scheme.ranges),
        "method": ", ".join(f"{kind} {method}" for kind, method in calibration.chosen.items()),
        "calibration_texts": calibration.coverage.samples,
        "calibration_data": calibration.coverage.data_sha256,
        "drop_in_calibration": round(kept.drops[-1], 4),
        "budget": round(kept.budget, 4),
    }
    if compared:
        figures |= {"int8_engines": len(used), "engines": len(calibration.engines)}
    if kept.left_wide:
        figures["left_wide"] = ", ".join(kept.left_wide)
    for choice in calibration.engines:
        if choice.reason is not None:
            figures[f"stage_{choice.stage} {choice.bucket}"] = choice.reason
    if not kept.within_budget:
        reason = (
            f"INT8 is not used: {min(kept.drops):.2f} {calibration.measured_by} are lost at best, "
            f"the budget has {kept.budget:.2f} left"
        )
        return Gate(name="int8", status="SKIPPED", reason=reason, figures=figures)
    if compared and not used:
        reason = "INT8 is not used: it is faster in no bucket"
        return Gate(name="int8", status="SKIPPED", reason=reason, figures=figures)
    return Gate(name="int8", status="PASSED", figures=figures)


FILE = "calibration.json"


def read_calibration(root: Path) -> Calibration:
    """Reads calibration.json of an artifact. Raises InputError."""
    try:
        return Calibration.model_validate_json((root / FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{root / FILE}: expected what calibration wrote, found {error}") from None


def write_calibration(root: Path, calibration: Calibration) -> None:
    """Writes calibration.json."""
    (root / FILE).write_text(calibration.model_dump_json(indent=1) + "\n", "utf-8")
