"""Relaxed decisions are removal in the limit, count real tokens only, and carry gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.model import PrunedTransformer
from pipeline.model.flops import count_flops, dense_flops
from pipeline.model.transformer import State
from pipeline.training.relaxation import _INFLUENCE, _SURE, Relaxation
from tests.conftest import LAYERS, LONGEST, TinyModel, build_tiny_model
from tests.model.samples import MARGIN, decision_margin, lay_out, make_samples

LENGTHS = [20, 9, 3, 1]
RELAXED = [("ltp", "soft"), ("transkimmer", "straight_through")]
protections = pytest.mark.parametrize("protect", [True, False])


def learnable(method: str, **pruner) -> PrunedTransformer:
    model = build_tiny_model(method, **pruner)
    if method == "ltp":
        model.pruner.learn()
    return model


def relaxed(
    model: PrunedTransformer,
    kind: str,
    inputs: tuple[Tensor, ...],
    temperature: float = 1.0,
    noise: float = 0.0,
) -> tuple[Tensor, Relaxation, Tensor]:
    """Logits, the relaxation with its counts, and the last state's rows, as a training step gets them."""
    ids, mask, types = inputs
    relaxation = Relaxation(model, kind, temperature, noise)
    relaxation.start(mask)
    state = model.walk(model.embed(ids, types, mask), model.steps, relaxation)
    return model.head(state.hidden), relaxation, state.hidden


def batch_for(model: PrunedTransformer, length: int = 20) -> tuple[Tensor, ...]:
    samples = make_samples(model, LENGTHS, seed=3)
    assert decision_margin(model, samples) > MARGIN
    return lay_out(samples, length, [range(n) for n in LENGTHS])


@protections
def test_straight_through_without_noise_is_the_decision_of_inference(protect: bool) -> None:
    model = learnable("transkimmer", protect_first=protect)
    inputs = batch_for(model)
    with torch.no_grad():
        logits, relaxation, _ = relaxed(model, "straight_through", inputs)
        want = model(*inputs)
    torch.testing.assert_close(logits, want.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.stack(relaxation.counts), want.alive.sum(-1).float(), atol=1e-4, rtol=0)


@protections
def test_a_cold_soft_threshold_is_the_decision_of_inference(protect: bool) -> None:
    model = learnable("ltp", protect_first=protect)
    inputs = batch_for(model)
    with torch.no_grad():
        logits, relaxation, _ = relaxed(model, "soft", inputs, temperature=MARGIN / 100)
        want = model(*inputs)
    torch.testing.assert_close(logits, want.logits, atol=1e-5, rtol=0)
    # Layer 0 of the tiny LTP model does not decide, so the counts of all layers are those of inference.
    torch.testing.assert_close(torch.stack(relaxation.counts), want.alive.sum(-1).float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["ltp", "topk", "threshold", "transkimmer"])
def test_hard_training_removes_rows_and_computes_what_inference_does(method: str) -> None:
    model = learnable(method)
    inputs = batch_for(model, LONGEST)
    logits, relaxation, hidden = relaxed(model, "hard", inputs)
    with torch.no_grad():
        want = model(*inputs)
    torch.testing.assert_close(logits, want.logits, atol=1e-5, rtol=0)
    assert torch.equal(torch.stack(relaxation.counts), want.alive.sum(-1).float())
    assert hidden.shape[1] == want.counts[-1].max() < LONGEST
    logits.sum().backward()
    assert model.attention[0].query.weight.grad.abs().sum() > 0


@protections
def test_weights_of_zero_and_one_are_removal(tiny_model: TinyModel, protect: bool) -> None:
    model = tiny_model("dense")
    attention, generator = model.attention[1], torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 9, 32, generator=generator)
    present = torch.rand(3, 9, generator=generator).round()
    present[:, 0] = 1
    ones = torch.ones(3, 9, dtype=torch.int32)
    with torch.no_grad():
        geometry = model.positions.at(torch.arange(9).expand(3, -1), hidden.dtype)
        removed = attention(hidden, present.int(), None, need_mass=True, zero_dead=not protect, geometry=geometry)
        weighted = attention(hidden, ones, present, need_mass=True, zero_dead=not protect, geometry=geometry)
    torch.testing.assert_close(weighted[0], removed[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(weighted[1], removed[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("method", "kind"), [*RELAXED, ("ltp", "hard"), ("topk", "hard")])
def test_more_padding_changes_neither_the_logits_nor_the_cost(method: str, kind: str) -> None:
    model = learnable(method)
    real = torch.tensor(LENGTHS)
    figures = []
    for length in (20, LONGEST):
        with torch.no_grad():
            logits, relaxation, _ = relaxed(model, kind, batch_for(model, length), temperature=0.5)
        ours = count_flops(model.config, real, torch.stack(relaxation.counts)).total.sum()
        figures.append((logits, float(ours / dense_flops(model.config, real).total.sum())))
    torch.testing.assert_close(figures[1][0], figures[0][0], atol=1e-5, rtol=0)
    assert figures[1][1] == pytest.approx(figures[0][1], abs=1e-6)
    assert figures[0][1] < 1.1


@pytest.mark.parametrize(("method", "kind"), RELAXED)
@pytest.mark.parametrize("loss", ["task", "cost"])
def test_gradients_reach_everything_that_decides(method: str, kind: str, loss: str) -> None:
    model = learnable(method, **({"thresholds": [0.5 / LONGEST] * LAYERS} if method == "ltp" else {}))
    inputs = batch_for(model)
    torch.manual_seed(0)
    logits, relaxation, _ = relaxed(model, kind, inputs, temperature=0.5, noise=0.5)
    if loss == "task":
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    else:
        count_flops(model.config, torch.tensor(LENGTHS), torch.stack(relaxation.counts)).total.sum().backward()
    if method == "transkimmer":
        deciding = [predictor[-1].weight.grad for predictor in model.pruner.predictors.values()]
    else:
        deciding = list(model.pruner.thresholds.grad)
    # The last LTP decision only removes keys of attentions that do not exist: the task cannot feel it.
    felt = deciding[:-1] if (method, loss) == ("ltp", "task") else deciding
    assert len(deciding) == LAYERS
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in felt)
    if loss == "cost" and method == "ltp":
        assert (model.pruner.thresholds.grad < 0).all(), "a higher threshold must cost less"


@pytest.mark.parametrize("length", [20, LONGEST])
def test_what_the_task_says_about_a_sampled_token_is_bounded_and_its_cost_is_not(length: int) -> None:
    """A dropped key that every query looks at has a first-order effect of any size, and the cost would drown in it."""
    model, steep = learnable("transkimmer"), 1e6
    gradients = {}
    for loss in ("task", "cost"):
        torch.manual_seed(0)
        logits, relaxation, _ = relaxed(model, "straight_through", batch_for(model, length), noise=1.0)
        assert relaxation.weights is not None
        value = logits if loss == "task" else torch.stack(relaxation.counts)
        (gradients[loss],) = torch.autograd.grad(steep * value.sum(), relaxation.weights)
    bound = _INFLUENCE / sum(LENGTHS)  # whatever the padding
    assert float(gradients["task"].abs().max()) == pytest.approx(bound)
    assert float(gradients["cost"].abs().max()) >= steep


@pytest.mark.parametrize(("method", "kind"), RELAXED)
def test_weights_never_rise_again(method: str, kind: str) -> None:
    model = learnable(method)
    torch.manual_seed(0)
    with torch.no_grad():
        counts = torch.stack(relaxed(model, kind, batch_for(model), noise=1.0)[1].counts)
    assert (counts.diff(dim=0) <= 1e-5).all()
    assert (counts >= 1 - 1e-5).all()  # the first token is protected
    assert (counts <= torch.tensor(LENGTHS) + 1e-5).all()


def test_noise_is_logistic_around_the_score() -> None:
    """So that a token of score s survives with probability sigmoid(s), the Gumbel-softmax of two logits."""
    model = learnable("transkimmer", protect_first=False)
    for predictor in model.pruner.predictors.values():
        predictor[-1].weight.data.zero_()
        predictor[-1].bias.data = torch.tensor([0.0, 1.0])
    samples = make_samples(model, [LONGEST] * 64, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        inputs = lay_out(samples, LONGEST, [range(LONGEST)] * 64)
        decisions = Relaxation(model, "straight_through", 1.0, noise=1.0)
        decisions.start(inputs[1])
        state = model.walk(model.embed(inputs[0], inputs[2], inputs[1]), model.steps, decisions)
    layers = model.config.encoder.layers
    assert float(state.keep.mean()) == pytest.approx(0.7311**layers, abs=0.03)
    # The budget counts what inference would decide, which is without noise: every score of 1 passes.
    assert all(torch.equal(count, torch.full_like(count, LONGEST)) for count in decisions.counts)


@pytest.mark.parametrize("wish", [-1.0, 1.0])
def test_a_score_that_has_gone_too_far_is_only_led_back(wish: float) -> None:
    """Without noise, a token is weighed by its score alone; `wish` says whether the loss wants it alive."""
    relaxation = Relaxation(learnable("transkimmer", protect_first=False), "straight_through", 1.0, noise=0.0)
    score = torch.tensor([[30.0, _SURE, 2.0, -2.0, -_SURE, -30.0]], requires_grad=True)
    mask = torch.ones_like(score).int()
    relaxation.start(mask)
    weights = relaxation._weights(0, score, State(torch.zeros(1, 6, 1), mask, torch.arange(6)[None]))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 1, 1, 0, 0, 0]]))
    (-wish * weights).sum().backward()
    assert score.grad is not None
    felt = (score.grad[0] != 0).tolist()
    assert felt == ([False, False, True, True, True, True] if wish > 0 else [True, True, True, True, False, False])


def test_what_was_kept_for_long_can_still_be_dropped() -> None:
    """A task that wants every token alive must not decide for good before a run starts to press."""
    model = learnable("transkimmer")
    ids, mask, types = batch_for(model)
    optimizer = torch.optim.Adam(model.pruner.parameters(), lr=0.05)
    for step in range(60):
        relaxation = Relaxation(model, "straight_through", 1.0)
        relaxation.start(mask)
        model.train().walk(model.embed(ids, types, mask), model.steps, relaxation)
        rows = torch.stack(relaxation.counts).sum()
        optimizer.zero_grad()
        (-rows if step < 30 else rows).backward()
        optimizer.step()
        if step in (29, 59):
            alive = model.eval()(ids, mask, types).alive[-1]
            assert bool((alive == mask.bool()).all()) == (step == 29)
