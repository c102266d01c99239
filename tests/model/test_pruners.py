"""What each rule keeps: ties, extremes, and the definitions worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.model import Output, PrunedTransformer
from pipeline.model.config import PrunerConfig
from pipeline.model.pruners import LTP_FLOOR, LtpPruner, ThresholdPruner, TopkPruner
from tests.conftest import LAYERS, LONGEST, METHODS, TinyModel, build_tiny_model
from tests.model.samples import MARGIN, assert_same, decision_margin, lay_out, make_samples, run

both_executions = pytest.mark.parametrize("execution", ["masked", "compacted"])
KEEP_ALL = {
    "ltp": {"thresholds": [0.0] * LAYERS},
    "topk": {"keep_rates": [1.0] * LAYERS},
    "threshold": {"thresholds": [0.0] * LAYERS},
}
KEEP_NONE = {
    "ltp": {"thresholds": [1e9] * LAYERS},
    "topk": {"keep_rates": [1e-9] * LAYERS},
    "threshold": {"thresholds": [1.5] * LAYERS},
}


def whole(model: PrunedTransformer, samples: list[Tensor], execution: str = "masked") -> Output:
    length = max(sample.shape[1] for sample in samples)
    with torch.no_grad():
        return model(*lay_out(samples, length, [range(s.shape[1]) for s in samples]), execution=execution)


@both_executions
@pytest.mark.parametrize("method", KEEP_ALL)
def test_fault_08_threshold_zero_is_the_dense_model_bit_for_bit(
    tiny_model: TinyModel, method: str, execution: str
) -> None:
    model, dense = tiny_model(method, **KEEP_ALL[method]), tiny_model("dense")
    assert all(step.kind != "decide" for step in model.steps)
    samples = make_samples(model, [LONGEST, 9, 1], seed=1)
    ours, theirs = whole(model, samples, execution), whole(dense, samples)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)
    assert torch.equal(ours.alive, theirs.alive)
    assert ours.score.isnan().all()


@both_executions
def test_fault_08_decisions_that_drop_nothing_are_the_dense_model_bit_for_bit(
    tiny_model: TinyModel, execution: str
) -> None:
    """Here every layer decides: LTP at its floor, Transkimmer with predictors that always say keep."""
    skimmer = build_tiny_model("transkimmer")
    for predictor in skimmer.pruner.predictors.values():
        predictor[-1].weight.data.zero_()
        predictor[-1].bias.data = torch.tensor([-1.0, 1.0])
    samples = make_samples(skimmer, [LONGEST, 9, 1], seed=1)
    dense = whole(tiny_model("dense"), samples)
    for model in (skimmer, tiny_model("ltp", thresholds=[LTP_FLOOR] * LAYERS)):
        assert sum(step.kind == "decide" for step in model.steps) == LAYERS
        out = whole(model, samples, execution)
        assert torch.equal(out.logits, dense.logits)
        assert torch.equal(out.last_hidden_state, dense.last_hidden_state)


@pytest.mark.parametrize("protect", [True, False])
@pytest.mark.parametrize("head", ["classification", "tagging"])
@pytest.mark.parametrize("method", [*KEEP_NONE, "transkimmer"])
def test_fault_07_with_everything_dead_the_first_token_goes_on_alone(method: str, head: str, protect: bool) -> None:
    model = build_tiny_model(method, head, protect_first=protect, **KEEP_NONE.get(method, {}))
    if method == "transkimmer":
        for predictor in model.pruner.predictors.values():
            predictor[-1].bias.data += torch.tensor([1e3, -1e3])
    samples = make_samples(model, [LONGEST, 9, 1], seed=2)
    masked = run(model, samples)
    assert_same(run(model, samples, "compacted"), masked)
    kept_by_rank = 1 if method == "topk" else 0  # topk keeps at least its best token
    for result in masked:
        assert (result.alive[:, 1:].sum(1) <= kept_by_rank).all()
        assert (result.counts <= 1 + kept_by_rank).all()
        if method != "topk":
            assert result.alive[:, 0].tolist() == [protect] * LAYERS
            assert result.counts.tolist() == [1] * LAYERS


def test_an_unprotected_dead_first_token_goes_on_without_context() -> None:
    """The original LTP: a zero context, so later layers are functions of the first token's state alone."""
    model = build_tiny_model("ltp", thresholds=[0.0, 1e9, 1e9, 1e9], protect_first=False)
    out = whole(model, make_samples(model, [12], seed=4))
    states = []
    with torch.no_grad():
        hook = model.feed_forward[1].register_forward_hook(lambda _, __, output: states.append(output))
        whole(model, make_samples(model, [12], seed=4))
        hook.remove()
        first = states[0][:, 0]
        for layer in (2, 3):
            attention = model.attention[layer]
            first = model.feed_forward[layer](attention.norm(first + attention.output.bias))
    torch.testing.assert_close(out.last_hidden_state[:, 0], first, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.logits, model.head(first[:, None]), atol=1e-5, rtol=0)


@both_executions
@pytest.mark.parametrize("protect", [True, False])
def test_fault_14_a_model_keeps_a_token_that_scores_exactly_its_threshold(protect: bool, execution: str) -> None:
    samples = make_samples(build_tiny_model("ltp"), [LONGEST], seed=6)

    def decided(threshold: float) -> Output:
        thresholds = [0.0, threshold, 0.0, 0.0]
        return whole(build_tiny_model("ltp", thresholds=thresholds, protect_first=protect), samples, execution)

    score = decided(1e-4).score[1, 0]
    token = int(score[1:].argsort()[LONGEST // 2]) + 1  # any but the first, which may be protected
    tie = score[token].item()
    assert decided(tie).alive[1, 0, token]
    assert not decided(float(np.nextafter(np.float32(tie), np.float32(1)))).alive[1, 0, token]


def test_ltp_scores_are_attention_received_per_head_and_reference_length(tiny_model: TinyModel) -> None:
    """So their sum over the keys is queries / reference_length, whatever the padding and the batch."""
    model = tiny_model("ltp")
    score = whole(model, make_samples(model, [LONGEST, 10, 4], seed=7)).score[1]
    for row, length in enumerate((LONGEST, 10, 4)):
        assert score[row, length:].isnan().all()
        assert math.isclose(float(score[row, :length].sum()), length / LONGEST, rel_tol=1e-5)


def test_ltp_mass_comes_from_living_queries_only(tiny_model: TinyModel) -> None:
    model = tiny_model("ltp")
    out = whole(model, make_samples(model, [LONGEST], seed=7))
    for layer in (2, 3):
        living = int(out.alive[layer - 1].sum())
        assert living < LONGEST
        assert math.isclose(float(out.score[layer].nansum()), living / LONGEST, rel_tol=1e-5)


def test_ltp_has_a_floor_and_its_thresholds_are_float32() -> None:
    encoder = build_tiny_model("dense").config.encoder
    thresholds = [0.0, 1e-9, 0.1, 0.01]
    config = PrunerConfig(method="ltp", thresholds=thresholds, reference_length=8)
    pruner = LtpPruner(config, encoder)
    assert [pruner.decides(layer) for layer in range(4)] == [False, True, True, True]
    assert pruner.threshold(1) == float(np.float32(LTP_FLOOR))
    assert pruner.threshold(2) == float(np.float32(0.1))


def test_topk_keeps_the_share_rounded_up_and_the_earlier_of_equals() -> None:
    pruner = TopkPruner(PrunerConfig(method="topk", keep_rates=[0.5, 0.6]))
    mass = torch.tensor([[3.0, 1.0, 3.0, 2.0, 9.0], [1.0, 1.0, 1.0, 1.0, 9.0]])
    alive = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])

    def kept(layer: int) -> list[list[bool]]:
        score = pruner.score(layer, torch.empty(0), mass, alive)
        return ((score >= pruner.threshold(layer)) & (alive > 0)).tolist()

    assert kept(0) == [[True, False, True, False, True], [True, True, False, False, False]]
    # 0.6 * 5 is 3.0000000000000004 in binary and must not become 4.
    assert kept(1) == [[True, False, True, False, True], [True, True, True, False, False]]


def test_topk_tells_how_nearly_a_token_was_dropped() -> None:
    """So that equals but for rounding count as near the threshold, as with every pruner."""
    pruner = TopkPruner(PrunerConfig(method="topk", keep_rates=[0.5]))
    mass = torch.tensor([[8.0, 2.0, 2.0 + 1e-6, 1.0], [8.0, 6.0, 2.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    score = pruner.score(0, torch.empty(0), mass, torch.ones(3, 4, dtype=torch.int32))
    assert (score >= pruner.threshold(0)).tolist() == [
        [True, False, True, False],
        [True, True, False, False],
        [True, True, False, False],
    ]
    near = (score - pruner.threshold(0)).abs() < 1e-5
    assert near.tolist() == [[False, True, True, False], [False] * 4, [True] * 4]


def test_threshold_is_relative_to_the_samples_largest_mass() -> None:
    pruner = ThresholdPruner(PrunerConfig(method="threshold", thresholds=[0.25, 0.0]))
    score = pruner.score(0, torch.empty(0), torch.tensor([[8.0, 2.0, 1.0], [0.0, 0.0, 0.0]]), torch.ones(2, 3))
    assert score.tolist() == [[1.0, 0.25, 0.125], [0.0, 0.0, 0.0]]
    assert (pruner.decides(0), pruner.decides(1)) == (True, False)
    assert pruner.threshold(0) == 0.25


@pytest.mark.parametrize("method", METHODS)
def test_the_random_models_really_prune(tiny_model: TinyModel, method: str) -> None:
    """The properties over these models say nothing if nothing or everything dies."""
    model = tiny_model(method)
    samples = make_samples(model, [LONGEST] * 4, seed=8)
    assert decision_margin(model, samples) > MARGIN
    alive = whole(model, samples).alive[-1].float().mean()
    assert alive == 1 if method == "dense" else 0.1 < alive < 0.9
