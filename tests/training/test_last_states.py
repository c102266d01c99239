"""What training lets a head read that reads every token: the states in which tokens were last processed."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from pipeline.model import CheckpointConfig, PrunedTransformer
from pipeline.model.config import HeadConfig
from pipeline.training.batches import Batch
from pipeline.training.losses import DISTILLED, task_loss
from pipeline.training.relaxation import Relaxation
from pipeline.training.targets import IGNORED
from tests.conftest import WIDTH, TinyModel
from tests.model.samples import lay_out, make_samples

LENGTHS, SEPARATOR = [20, 11, 6], 5
HEADS = {
    "tagging": HeadConfig(kind="tagging", labels=["O", "B-X", "I-X"]),
    "mean": HeadConfig(kind="embedding", size=WIDTH, pooling="mean", normalise=True),
    "translated mean": HeadConfig(kind="embedding", size=WIDTH, pooling="mean", normalise=True),
}


def with_head(base: PrunedTransformer, head: HeadConfig) -> PrunedTransformer:
    config = CheckpointConfig(**base.config.model_dump(exclude={"head"}), head=head)
    model = PrunedTransformer(config)
    encoder = {name: value for name, value in base.state_dict().items() if not name.startswith("head.")}
    model.load_state_dict({**model.state_dict(), **encoder})
    return model.eval()


@pytest.mark.parametrize("protect", ["first", "nothing", "segment"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("method", "kind"), [("topk", "hard"), ("transkimmer", "hard"), ("transkimmer", "straight_through")]
)
def test_training_reads_what_inference_reads(
    tiny_model: TinyModel, method: str, kind: str, head: str, protect: str
) -> None:
    model = with_head(tiny_model(method, protect_first=protect != "nothing"), HEADS[head])
    if head == "translated mean":
        model.pruner.add_translators(model.config.encoder)
        for parameter in model.pruner.translators.parameters():  # type: ignore[union-attr]
            torch.nn.init.normal_(parameter, std=0.3)
    ids, mask, types = lay_out(make_samples(model, LENGTHS, seed=3), 20, [range(n) for n in LENGTHS])
    if protect == "segment":
        ids[:, 3] = SEPARATOR
        pruner = model.config.pruner.model_copy(update={"protect_until": SEPARATOR})
        model.config = model.config.model_copy(update={"pruner": pruner})
    relaxation = Relaxation(model, kind, 1.0, 0.0)
    with torch.no_grad():
        relaxation.start(mask)
        state = model.walk(model.embed(ids, types, mask), model.steps, relaxation)
        states = relaxation.last_states(state)
        found, wanted = model.head(states, mask), model(ids, mask, types)
    real = mask.bool()
    assert bool((wanted.alive[-1] != real).any()), "nothing was dropped"
    assert protect != "segment" or bool(wanted.alive[-1][:, :4].all())
    torch.testing.assert_close(states[real], wanted.last_hidden_state[real], atol=1e-5, rtol=0)
    if head != "tagging":
        torch.testing.assert_close(found, wanted.logits, atol=1e-5, rtol=0)


def test_a_dropped_token_teaches_its_threshold(tiny_model: TinyModel) -> None:
    """In the soft phase, what a dropped token leaves depends on its weight, so that gradients reach the thresholds."""
    model = with_head(deepcopy(tiny_model("ltp")), HEADS["mean"])
    model.pruner.learn()  # type: ignore[operator]
    ids, mask, types = lay_out(make_samples(model, LENGTHS, seed=3), 20, [range(n) for n in LENGTHS])
    relaxation = Relaxation(model, "soft", 0.1)
    relaxation.start(mask)
    state = model.walk(model.embed(ids, types, mask), model.steps, relaxation)
    model.head(relaxation.last_states(state), mask)[0, 0].backward()
    assert bool((model.pruner.thresholds.grad != 0).any())  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", DISTILLED)
def test_a_loss_sees_no_padding_and_is_least_where_the_teacher_is(kind: str) -> None:
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    shape = {"tagging": (2, 4, 3), "question_answering": (2, 4, 2), "ranking": (2, 1)}.get(kind, (2, 3))
    target = {
        "tagging": torch.tensor([[0, 1, 2, 0], [1, 0, IGNORED, IGNORED]]),
        "question_answering": torch.tensor([[1, 2], [0, 1]]),
        "multi_label": torch.tensor([[1.0, 0, 1], [0, 0, 1]]),
        "ranking": torch.tensor([1.0, 0.0]),
    }.get(kind, torch.tensor([0, 2]))
    batch = Batch(mask, mask, mask, target, torch.arange(2), torch.zeros(2, dtype=torch.long))
    taught, ours = torch.randn(shape), torch.randn(shape)
    loss = DISTILLED[kind]  # type: ignore[index]
    assert loss(taught, taught, batch) < loss(ours, taught, batch)
    if len(shape) == 3:
        other = torch.where(mask[:, :, None] > 0, ours, ours + 5)
        assert torch.allclose(loss(other, taught, batch), loss(ours, taught, batch))
        assert torch.allclose(task_loss(kind, other, batch), task_loss(kind, ours, batch))  # type: ignore[arg-type]
