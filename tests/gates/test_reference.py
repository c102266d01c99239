"""What PyTorch computes for texts, and that its two executions are compared for real."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.gates import Reference, reference_parity
from pipeline.model import PrunedTransformer
from pipeline.model.reference import run_batch
from pipeline.model.transformer import State
from plugins.token_compact.operator import surviving
from tests.conftest import METHODS
from tests.graph.small import random_samples, small_model

SAMPLES = random_samples(12)


def tampered(method: str = "ltp") -> PrunedTransformer:
    """A model of which the masked execution brings every other token back to life."""
    model = copy.deepcopy(small_model(method, layers=2))

    def decide(layer: int, score: Tensor, state: State) -> State:
        keep = surviving(score, state.alive, model.pruner.threshold(layer), True)
        keep[:, ::2] = state.alive[:, ::2] > 0
        return State(state.hidden, keep.int(), state.position)

    model.decide_masked = decide  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("method", METHODS)
def test_results_come_per_sample_in_the_order_of_the_texts_without_padding(method: str) -> None:
    model = small_model(method, layers=2)
    reference = Reference.of(model, SAMPLES[::-1])
    for index, sample in enumerate(SAMPLES[::-1]):
        alone = run_batch(model, [sample], "masked")
        torch.testing.assert_close(reference.logits[index], alone.logits[0], atol=1e-5, rtol=0)
        assert torch.equal(reference.alive[index], alone.alive[:, 0])
        assert torch.equal(reference.counts[index], alone.counts[:, 0])
        assert reference.alive[index].shape == (2, len(sample))


def test_token_level_logits_are_as_long_as_the_sample() -> None:
    reference = Reference.of(small_model("transkimmer", head="tagging"), SAMPLES)
    assert [logits.shape for logits in reference.logits] == [(len(sample), 3) for sample in SAMPLES]


def test_mean_rows_and_flops_fall_with_what_dies() -> None:
    model = small_model("ltp", layers=2)
    reference = Reference.of(model, SAMPLES)
    length, *rows = reference.mean_rows()
    assert length == sum(map(len, SAMPLES)) / len(SAMPLES) > rows[0] > rows[1] >= 1
    assert reference.flops_ratio(model) > 1
    assert reference.first(3).samples == SAMPLES[:3] and len(reference.first(3).logits) == 3
    dense = small_model("dense", layers=2)
    assert Reference.of(dense, SAMPLES).flops_ratio(dense) == 1


@pytest.mark.parametrize("method", ["dense", "ltp", "transkimmer", "threshold"])
def test_the_two_executions_agree(method: str) -> None:
    model = small_model(method, layers=2)
    gate = reference_parity(model, Reference.of(model, SAMPLES))
    assert gate.status == "PASSED"
    assert gate.figures["samples"] == 12 and gate.figures["largest_difference"] < 1e-5
    assert gate.figures["within_rounding_of_threshold"] == 0


@pytest.mark.parametrize(("share", "status"), [(0.9, "PASSED"), (1.1, "FAILED")])
@pytest.mark.parametrize("gain", [1.0, 300.0])
def test_rounding_is_allowed_as_the_logits_grow(
    monkeypatch: pytest.MonkeyPatch, gain: float, share: float, status: str
) -> None:
    """A difference of 1e-5, or of 1e-5 of the largest logit where that is above 1."""
    model = small_model("dense", layers=2)
    reference = Reference.of(model, SAMPLES)
    largest = max(float(logits.abs().max()) for logits in reference.logits)
    grown = [gain * logits / largest for logits in reference.logits]
    masked = replace(reference, logits=[logits + share * gain * 1e-5 for logits in grown])
    monkeypatch.setattr(Reference, "of", lambda *_: masked)
    gate = reference_parity(model, replace(reference, logits=grown))
    assert gate.status == status and gate.figures["tolerance"] == pytest.approx(gain * 1e-5)


def test_an_execution_that_keeps_other_tokens_fails() -> None:
    model = tampered()
    gate = reference_parity(model, Reference.of(model, SAMPLES))
    assert gate.status == "FAILED" and "disagree for sample " in gate.reason


def test_nan_on_both_sides_fails() -> None:
    model = copy.deepcopy(small_model("dense"))
    model.head.classifier.bias.data.fill_(torch.nan)
    assert reference_parity(model, Reference.of(model, SAMPLES)).status == "FAILED"


def test_samples_near_a_threshold_are_excused_and_counted_and_all_of_them_is_no_pass() -> None:
    model = tampered("transkimmer")
    reference = Reference.of(model, SAMPLES)
    for score in reference.score[:-1]:
        score[0, 0] = model.pruner.threshold(0)
    gate = reference_parity(model, reference)
    assert gate.status == "FAILED" and gate.figures["within_rounding_of_threshold"] == 11
    assert "sample 11 and 0 more" in gate.reason
    reference.score[-1][0, 0] = model.pruner.threshold(0)
    gate = reference_parity(model, reference)
    assert gate.status == "SKIPPED" and "none could be compared" in gate.reason
