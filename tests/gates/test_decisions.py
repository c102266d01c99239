"""Free-running engines against the reference: flips and other answers fail, what rounding explains does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engines.manifest import Gate
from engines.prediction import SampleResult
from pipeline.gates import Reference, decision_parity
from pipeline.gates.expected import Expected
from pipeline.graph.precision import reference_in
from pipeline.graph.stages import cut_stages
from pipeline.model import PrunedTransformer
from pipeline.model.rounding import CHAIN, moved_near
from tests.graph.small import random_samples, small_model

SAMPLES = random_samples(6)
LAST = 5  # the longest sample, which is tampered with


def moves_of(reference: Reference, rounded: Reference, threshold: float) -> float:
    """By how much rounding moves the last sample's scores near the threshold of layer 1."""
    return float(moved_near(reference.score[LAST][1], rounded.score[LAST][1], threshold))


def faithful(model: PrunedTransformer, reference: Reference) -> list[SampleResult]:
    """What engines that are cut at layer 1 return when they do all that the reference does."""
    return [
        SampleResult(len(sample), logits.numpy(), 2 * [np.flatnonzero(alive[1].numpy()).astype(np.int32)], [])
        for sample, logits, alive in zip(SAMPLES, reference.logits, reference.alive, strict=True)
    ]


def judge(model: PrunedTransformer, reference: Reference, results: list[SampleResult]) -> Gate:
    """The gate for a model of two layers that is cut at layer 1."""
    return decision_parity(Expected(model, cut_stages(model, [1]), reference), results)


@pytest.fixture
def model() -> PrunedTransformer:
    """Decides at layers 0 and 1."""
    return small_model("ltp", layers=2)


@pytest.fixture
def reference(model: PrunedTransformer) -> Reference:
    """The model's results on SAMPLES, free to be changed."""
    return Reference.of(model, SAMPLES)


def flip(results: list[SampleResult], token: int, stages: tuple[int, ...] = (0, 1)) -> None:
    """Flips one token of the last sample behind these stages."""
    survivors = list(results[LAST].survivors)
    for stage in stages:
        survivors[stage] = np.setxor1d(survivors[stage], np.array([token], np.int32))
    results[LAST] = replace(results[LAST], survivors=survivors)


def dying(reference: Reference) -> int:
    """A token of the last sample that the decision of layer 1 drops."""
    alive = reference.alive[LAST]
    return int(torch.nonzero(alive[0] & ~alive[1]).flatten()[0])


def at_the_threshold(model: PrunedTransformer, reference: Reference, token: int) -> None:
    """Moves a token's score at layer 1 to within rounding of the threshold."""
    reference.score[LAST][1, token] = model.pruner.threshold(1) + 0.5 * CHAIN * reference.score_scale(1)


def test_the_same_tokens_and_answers_pass(model: PrunedTransformer, reference: Reference) -> None:
    gate = judge(model, reference, faithful(model, reference))
    assert gate.status == "PASSED"
    assert gate.figures["flips"] == 0 and gate.figures["label_agreement"] == 1
    assert gate.figures["samples"] == 6 and gate.figures["decisions"] == 2 * sum(map(len, SAMPLES))


@pytest.mark.parametrize("stages", [(0, 1), (1,)])
def test_a_flip_away_from_the_threshold_fails_and_is_named(
    model: PrunedTransformer, reference: Reference, stages: tuple[int, ...]
) -> None:
    results, token = faithful(model, reference), dying(reference)
    flip(results, token, stages)
    gate = judge(model, reference, results)
    assert gate.status == "FAILED" and gate.figures["flips"] == len(stages)
    assert f"stage_{stages[0]}, sample {LAST}: token {token}" in gate.reason


def test_a_flip_within_rounding_is_excused_with_all_that_follows_from_it(
    model: PrunedTransformer, reference: Reference
) -> None:
    results, token = faithful(model, reference), dying(reference)
    flip(results, token)
    flip(results, token + 1, (1,))  # a consequence: the last stage saw another state
    results[LAST] = replace(results[LAST], logits=-results[LAST].logits)
    assert judge(model, reference, results).status == "FAILED"
    at_the_threshold(model, reference, token)
    gate = judge(model, reference, results)
    assert gate.status == "PASSED"
    assert gate.figures["flips"] == 3 and gate.figures["flips_within_rounding_of_threshold"] == 1
    assert gate.figures["label_agreement"] == 5 / 6


def test_a_flip_beside_an_excused_one_is_not_excused(model: PrunedTransformer, reference: Reference) -> None:
    results, token = faithful(model, reference), dying(reference)
    at_the_threshold(model, reference, token)
    flip(results, token)
    flip(results, 0)
    gate = judge(model, reference, results)
    assert gate.status == "FAILED" and f"stage_0, sample {LAST}: token 0" in gate.reason


def test_another_answer_from_the_same_tokens_fails(model: PrunedTransformer, reference: Reference) -> None:
    results = faithful(model, reference)
    results[2] = replace(results[2], logits=-results[2].logits)
    gate = judge(model, reference, results)
    assert gate.status == "FAILED" and "sample 2: the same tokens, but another answer" in gate.reason
    assert gate.figures["flips"] == 0 and gate.figures["label_agreement"] == 5 / 6


def test_another_answer_is_excused_where_the_reference_is_within_rounding_of_a_tie(
    model: PrunedTransformer, reference: Reference
) -> None:
    results = faithful(model, reference)
    reference.logits[2] = torch.tensor([1.0, 1.0 - 1e-5, -1.0])
    results[2] = replace(results[2], logits=np.array([1.0, 1.0 + 1e-5, -1.0], np.float32))
    gate = judge(model, reference, results)
    assert gate.status == "PASSED" and gate.figures["label_agreement"] == 5 / 6


def test_a_regression_must_give_the_same_value() -> None:
    model = small_model("ltp", layers=2, head="regression")
    reference = Reference.of(model, SAMPLES)
    results = faithful(model, reference)
    assert judge(model, reference, results).status == "PASSED"
    results[0] = replace(results[0], logits=results[0].logits + 0.1)
    assert judge(model, reference, results).status == "FAILED"


def test_every_token_of_a_tagging_model_must_have_its_label() -> None:
    model = small_model("transkimmer", layers=2, head="tagging")
    reference, specs = Reference.of(model, SAMPLES), cut_stages(model, [0, 1])
    results = [
        SampleResult(len(sample), logits.numpy(), [np.flatnonzero(alive[i]) for i in (0, 1, 1)], [])
        for sample, logits, alive in zip(SAMPLES, reference.logits, reference.alive, strict=True)
    ]
    assert decision_parity(Expected(model, specs, reference), results).status == "PASSED"
    swapped = results[3].logits.copy()
    swapped[-1] = -swapped[-1]
    results[3] = replace(results[3], logits=swapped)
    gate = decision_parity(Expected(model, specs, reference), results)
    assert gate.status == "FAILED" and "sample 3: the same tokens, but another answer" in gate.reason


def in_bf16(model: PrunedTransformer) -> Reference:
    """What PyTorch gives in bfloat16."""
    return Reference.of(reference_in(model, "bf16"), SAMPLES)


def test_a_narrower_precision_is_judged_by_what_it_moves_in_pytorch(
    model: PrunedTransformer, reference: Reference
) -> None:
    rounded = in_bf16(model)
    gate = decision_parity(Expected(model, cut_stages(model, [1]), reference), faithful(model, rounded), rounded)
    assert gate.status == "PASSED", gate.reason
    threshold = model.pruner.threshold(1)
    assert moves_of(reference, rounded, threshold) > CHAIN * reference.score_scale(1) > 0
    assert moves_of(reference, reference, threshold) == 0
    assert min(reference.answer_moves(rounded)) > 0 == max(reference.answer_moves(reference))


def test_an_answer_moves_as_the_gap_between_its_logits_does(model: PrunedTransformer, reference: Reference) -> None:
    """Logits that move apart move the answer twice, those that move together not at all."""
    apart, together = Reference.of(model, SAMPLES), Reference.of(model, SAMPLES)
    for index, logits in enumerate(reference.logits):
        reference.logits[index] = torch.zeros_like(logits)
        apart.logits[index] = torch.tensor([0.1, -0.1, 0.0])
        together.logits[index] = torch.full_like(logits, 0.1)
    assert reference.answer_moves(apart) == pytest.approx([2 * 0.2] * len(SAMPLES))
    assert reference.answer_moves(together) == [0.0] * len(SAMPLES)


def test_a_close_answer_may_move_as_far_as_a_clear_one(model: PrunedTransformer, reference: Reference) -> None:
    rounded = Reference.of(model, SAMPLES)
    for index in range(len(SAMPLES)):
        reference.logits[index] = torch.tensor([10.0, -10.0, -10.0])
        rounded.logits[index] = torch.tensor([10.1, -10.0, -10.0])
    reference.logits[2] = torch.tensor([0.1, 0.0, -1.0])
    rounded.logits[2] = reference.logits[2]
    results = [
        replace(result, logits=logits.numpy())
        for result, logits in zip(faithful(model, reference), rounded.logits, strict=True)
    ]
    for lead, status in ((0.15, "PASSED"), (0.25, "FAILED")):
        reference.logits[2][0] = rounded.logits[2][0] = lead
        results[2] = replace(results[2], logits=np.array([0.0, 0.01, -1.0], np.float32))
        assert decision_parity(Expected(model, cut_stages(model, [1]), reference), results, rounded).status == status


def test_an_answer_that_hardly_moved_by_chance_may_move_as_the_others_did(
    model: PrunedTransformer, reference: Reference
) -> None:
    rounded = in_bf16(model)
    rounded.logits[0] = reference.logits[0]
    moves = reference.answer_moves(rounded)
    assert moves[0] == min(moves) > 0


def test_a_flip_beyond_what_the_precision_moves_fails(model: PrunedTransformer, reference: Reference) -> None:
    rounded = in_bf16(model)
    token = dying(reference)
    threshold = model.pruner.threshold(1)
    reference.score[LAST][:, token] = threshold - 3 * moves_of(reference, rounded, threshold)
    results = faithful(model, reference)
    flip(results, token)
    # Not from the changed score: the rounding that is allowed must be that of the other tokens.
    rounded.score[LAST][:, token] = reference.score[LAST][:, token]
    gate = decision_parity(Expected(model, cut_stages(model, [1]), reference), results, rounded)
    assert gate.status == "FAILED" and f"sample {LAST}: token {token}" in gate.reason


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_narrower_precision_may_move_a_value_by_what_it_moves_values_by(precision: str) -> None:
    model = small_model("ltp", layers=2, head="regression")
    reference, rounded = (Reference.of(m, SAMPLES) for m in (model, reference_in(model, precision)))
    moves = reference.answer_moves(rounded)
    assert all(move > 0 for move in moves)
    specs, results = cut_stages(model, [1]), faithful(model, reference)
    results[0] = replace(results[0], logits=results[0].logits + np.float32(0.9 * moves[0]))
    assert decision_parity(Expected(model, specs, reference), results, rounded).status == "PASSED"
    results[0] = replace(results[0], logits=results[0].logits + np.float32(2 * moves[0] + 1e-2))
    assert decision_parity(Expected(model, specs, reference), results, rounded).status == "FAILED"
