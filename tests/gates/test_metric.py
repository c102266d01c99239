"""The task metric, and its budget against dense."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calib.data import Example
from calib.metric import accuracy, labelled
from engines.head import Head
from engines.manifest import Gate
from pipeline.gates import task_metric

CLASSES = Head(kind="classification", labels=["no", "yes"])
VALUE = Head(kind="regression", labels=["value"])


def test_accuracy_is_the_share_of_right_labels() -> None:
    logits = [np.array([2.0, 1.0]), np.array([0.0, 1.0]), np.array([0.0, 1.0])]
    assert accuracy(CLASSES, logits, [Example("a", "no"), Example("b", "yes"), Example("c", "no")]) == 2 / 3


def test_regression_is_judged_by_correlation() -> None:
    examples = [Example("a", "1"), Example("b", "2.5"), Example("c", "3")]
    falling = [np.array([-2.0 * float(example.label)]) for example in examples]
    assert accuracy(VALUE, falling, examples) == pytest.approx(-1.0)
    assert math.isnan(accuracy(VALUE, [np.array([1.0])] * 3, examples))  # no correlation with a constant


@pytest.mark.parametrize(
    ("head", "labels", "expected"),
    [
        (CLASSES, ["no", "yes", "no"], True),
        (CLASSES, ["no", "film"], False),
        (VALUE, ["1", "-2.5", "1e-05"], True),
        (VALUE, ["1", "nan"], False),
        (VALUE, ["1", "many"], False),
    ],
)
def test_a_metric_needs_labels_of_the_head(head: Head, labels: list[str], expected: bool) -> None:
    assert labelled(head, [Example("text", label) for label in labels]) is expected


@pytest.mark.parametrize(("ours", "status"), [(0.91, "PASSED"), (0.895, "PASSED"), (0.889, "FAILED")])
def test_the_drop_against_dense_must_stay_within_the_budget(ours: float, status: str) -> None:
    gate = task_metric(ours, 0.90, 1000, 1.0)
    assert gate.status == status
    assert gate.figures["drop_points"] == pytest.approx(100 * (0.90 - ours))
    assert (
        status == "PASSED" or gate.reason == "the metric is 0.8890, dense 0.9000: 1.10 points lower, the budget is 1.0"
    )


def test_a_drop_of_just_the_budget_is_within_it() -> None:
    assert 100 * (0.879 - 0.869) > 1.0, "in binary"
    assert task_metric(0.869, 0.879, 1000, 1.0).status == "PASSED"


def test_a_negative_budget_asks_for_a_gain() -> None:
    assert task_metric(0.90, 0.90, 10, -0.5).status == "FAILED"
    assert task_metric(0.91, 0.90, 10, -0.5).status == "PASSED"


def test_without_a_dense_model_the_gate_is_skipped_and_says_how_not_to() -> None:
    gate = task_metric(0.9, None, 10, 1.0)
    assert gate.status == "SKIPPED" and "--dense" in gate.reason and gate.figures == {"examples": 10, "metric": 0.9}


@pytest.mark.parametrize(("ours", "dense", "status"), [(math.nan, 0.9, "FAILED"), (0.9, math.nan, "SKIPPED")])
def test_an_undefined_metric_never_passes(ours: float, dense: float, status: str) -> None:
    gate = task_metric(ours, dense, 10, 1.0)
    assert gate.status == status
    assert Gate.model_validate_json(gate.model_dump_json()) == gate  # JSON has no NaN
