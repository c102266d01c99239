"""Calibration as a whole: the method of least divergence, what pruning has used of the budget, and its measure."""

from __future__ import annotations

import pytest
import torch

from calib.data import Example
from calib.int8.calibrate import Calibration, DropBudget, calibrate, int8_gate
from calib.int8.equalise import equalised
from calib.int8.ranges import choose_ranges, collect_histograms
from calib.int8.scheme import kinds
from calib.int8.simulation import simulate
from calib.texts import CalibrationSet
from engines.buckets import Bucket
from engines.tokenization import Tokens
from pipeline.gates import Reference
from pipeline.model import PrunedTransformer
from tests.conftest import WORDS
from tests.graph.small import random_samples, small_model

MODEL, DENSE = small_model("ltp", layers=2), small_model("dense", layers=2)
SAMPLES = random_samples(40)
GATES = Reference.of(MODEL, random_samples(40, seed=1))


def labels_by(model: PrunedTransformer) -> list[str]:
    """What a model says of the samples."""
    return [model.config.head.labels[int(x.argmax())] for x in Reference.of(model, SAMPLES).logits]


def set_of(labels: list[str]) -> CalibrationSet:
    """The samples with these labels."""
    examples = [Example(f"text {n}", label) for n, label in enumerate(labels)]
    return CalibrationSet.of("toy", examples, SAMPLES, 0, MODEL.config.head.labels, [Bucket(batch=1, length=32)])


@pytest.fixture(scope="module")
def found() -> Calibration:
    """A calibration on texts whose labels are what the pruned model says."""
    return calibrate(MODEL, set_of(labels_by(MODEL)), GATES, DropBudget(5.0))


def test_the_method_that_diverges_least_is_taken_for_each_kind_of_layers(found: Calibration) -> None:
    histograms = collect_histograms(MODEL, SAMPLES)
    assert set(found.methods) == {"qkv", "output", "up", "down"}
    schemes = {name: choose_ranges(histograms, name) for name in ("minmax", "percentile", "entropy", "mse")}
    schemes["equalised"] = equalised(MODEL, histograms)
    for kind, layers in kinds(found.kept.scheme.ranges).items():
        assert set(found.methods[kind]) == {name for name in schemes if kind == "up" or name != "equalised"}
        assert found.methods[kind][found.chosen[kind]] == min(found.methods[kind].values())
        assert found.kept.scheme.only(layers) == schemes[found.chosen[kind]].only(layers)
    only = calibrate(MODEL, set_of(labels_by(MODEL)), GATES, DropBudget(100.0), method="entropy")
    assert set(only.chosen.values()) == {"entropy"}
    assert only.kept.scheme == choose_ranges(histograms, "entropy")


def test_the_report_holds_coverage_shift_clipping_and_costs(found: Calibration) -> None:
    assert found.coverage.samples == 40 and [d.of for d in found.shift] == ["vocabulary", "length", "retention"]
    assert set(found.clipped) == {name for row in found.costs for name in row.layers} and len(found.costs) == 8
    assert all(0 <= share < 0.01 for share in found.clipped.values())
    assert Calibration.model_validate_json(found.model_dump_json()) == found


def test_the_first_texts_give_the_ranges_and_all_of_them_count_for_the_budget(monkeypatch) -> None:
    monkeypatch.setattr("calib.int8.calibrate.RANGED", 1)
    labels = labels_by(MODEL)
    kept = calibrate(MODEL, set_of(labels), GATES, DropBudget(100.0), method="minmax").kept
    assert kept.scheme == choose_ranges(collect_histograms(MODEL, SAMPLES[:1]), "minmax")
    changed = [ours != theirs for ours, theirs in zip(labels, labels_by(simulate(MODEL, kept.scheme)), strict=True)]
    assert not changed[0] and any(changed)  # so that the budget of the first text alone would be another one
    assert kept.drops[-1] == pytest.approx(100 * sum(changed) / 40)


def test_a_tick_comes_behind_each_of_five_steps() -> None:
    ticks: list[None] = []
    calibrate(MODEL, set_of(labels_by(MODEL)), GATES, DropBudget(5.0), method="minmax", tick=lambda: ticks.append(None))
    assert len(ticks) == 5


def test_what_pruning_lost_is_no_longer_there_for_int8() -> None:
    labels = labels_by(DENSE)
    lost = 100 * sum(ours != theirs for ours, theirs in zip(labels_by(MODEL), labels, strict=True)) / len(labels)
    assert lost > 0
    for max_drop, left in ((lost + 7, 7.0), (lost / 2, 0.0)):
        kept = calibrate(MODEL, set_of(labels), GATES, DropBudget(max_drop, lambda examples: 1.0), "minmax").kept
        assert kept.budget == pytest.approx(left)


def test_texts_with_other_labels_are_measured_by_changed_answers() -> None:
    found = calibrate(
        MODEL, set_of(["film"] * 40), GATES, DropBudget(100.0, lambda _: pytest.fail("nothing to compare")), "minmax"
    )
    assert found.measured_by == "percent of texts with another label" and found.kept.budget == 100.0
    assert 0 <= found.kept.drops[0] <= 100


def test_a_budget_that_nothing_holds_leaves_an_empty_scheme_and_says_so() -> None:
    impossible = calibrate(MODEL, set_of(labels_by(MODEL)), GATES, DropBudget(-1000.0), method="minmax")
    assert not impossible.scheme.ranges and not impossible.kept.within_budget
    assert len(impossible.kept.left_wide) == 8
    assert int8_gate(impossible).status == "SKIPPED"


def test_calibration_texts_of_other_words_are_reported(found: Calibration) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(WORDS - 6, WORDS, (len(s),), generator=generator).tolist() for s in SAMPLES]
    other = [Tokens(words, s.token_type_ids, len(s)) for words, s in zip(ids, SAMPLES, strict=True)]
    examples = [Example(f"text {n}", "film") for n in range(40)]
    shifted = CalibrationSet.of("toy", examples, other, 0, [], [Bucket(batch=1, length=32)])
    assert calibrate(MODEL, shifted, GATES, DropBudget(100.0), method="minmax").shift[0].shifted
    assert not found.shift[0].shifted


def test_a_metric_that_is_undefined_is_replaced_by_changed_answers() -> None:
    """A correlation with labels that are all the same, such as those of texts that nobody has labelled."""
    model = small_model("ltp", layers=2, head="regression")
    examples = [Example(f"text {n}", "0") for n in range(40)]
    texts = CalibrationSet.of("toy", examples, SAMPLES, 0, model.config.head.labels, [Bucket(batch=1, length=32)])
    found = calibrate(model, texts, Reference.of(model, SAMPLES), DropBudget(100.0), method="minmax")
    assert found.measured_by == "percent of texts with another label"
    assert Calibration.model_validate_json(found.model_dump_json()) == found
