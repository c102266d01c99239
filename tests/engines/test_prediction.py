"""How logits are read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.head import Head
from engines.prediction import SampleResult, predict


def prediction(kind: str, labels: list[str], logits: list):
    survivors = [np.arange(3, dtype=np.int32), np.arange(2, dtype=np.int32)]
    return predict(SampleResult(3, np.array(logits, np.float32), survivors, [3]), Head(kind=kind, labels=labels))


def test_classification() -> None:
    found = prediction("classification", ["a", "b"], [0.0, np.log(3.0)])
    assert found.label == "b" and found.probability == pytest.approx(0.75)
    assert found.retention == [3, 2] and found.keep_ratio == [1.0, pytest.approx(2 / 3)]


def test_large_logits_do_not_overflow() -> None:
    assert prediction("classification", ["a", "b"], [1e4, -1e4]).probability == 1.0


def test_regression() -> None:
    found = prediction("regression", ["score"], [2.5])
    assert (found.label, found.probability, found.logits) == (None, None, [2.5])


def test_tagging() -> None:
    found = prediction("tagging", ["O", "B"], [[1, 0], [0, 1], [0, 0]])
    assert found.label == ["O", "B", "O"]
    assert found.probability == pytest.approx([0.731059, 0.731059, 0.5], abs=1e-5)


@given(st.lists(st.tuples(st.floats(-5, 5, width=32), st.floats(-5, 5, width=32)), min_size=1, max_size=12))
def test_the_answer_is_the_most_probable_span(logits: list[tuple[float, float]]) -> None:
    found = prediction("question_answering", ["start", "end"], logits)
    weights = np.exp(np.array(logits, np.float64))
    start, end = (weights / weights.sum(0)).T
    best = max(start[i] * end[j] for i in range(len(logits)) for j in range(i, len(logits)))
    first, last = found.label
    assert first <= last
    assert found.probability == pytest.approx(best) == pytest.approx(start[first] * end[last])
