"""What the teacher looks at, and that the first decision learns it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.training.batches import Batch
from pipeline.training.token_ranking import answer_and_attention, ranking_loss
from tests.conftest import HEADS, LAYERS, TinyModel
from tests.training.runs import make_config, make_trainer

PADDED = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def make_batch(vocabulary: int) -> Batch:
    ids = torch.randint(5, vocabulary, PADDED.shape, generator=torch.Generator().manual_seed(3)) * PADDED
    none = torch.zeros(len(ids), dtype=torch.int64)
    return Batch(ids, PADDED, torch.zeros_like(ids), target=none, index=torch.arange(len(ids)), query=none)


@torch.no_grad()
@pytest.mark.parametrize("method", ["dense", "ltp"])
@pytest.mark.parametrize("behind", [-1, 0, LAYERS - 2])
def test_the_teacher_answers_as_ever_and_every_layer_behind_gives_its_attention(
    tiny_model: TinyModel, method: str, behind: int
) -> None:
    teacher, batch = tiny_model(method), make_batch(40)
    logits, attention = answer_and_attention(teacher, batch, behind)
    torch.testing.assert_close(logits, teacher(batch.input_ids, batch.mask, batch.token_type_ids).logits)
    # Every query of every head gives away a share of 1.
    given = (LAYERS - 1 - behind) * HEADS * batch.mask.sum(1).float()
    torch.testing.assert_close(attention.sum(1), given)
    assert not attention[batch.mask == 0].any()


@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_the_loss_is_least_where_the_score_has_the_shares_of_the_attention(tiny_model: TinyModel, method: str) -> None:
    pruner = tiny_model(method).pruner
    attention, counted = torch.rand(2, 6) + 0.1, PADDED.bool()
    same = 0.01 * attention if method == "ltp" else attention.log() - 2
    assert float(ranking_loss(pruner, same, counted, attention)) == pytest.approx(0, abs=1e-6)
    other = same.roll(1, dims=1).requires_grad_()
    loss = ranking_loss(pruner, other, counted, attention)
    assert loss.item() > 0.01
    (slope,) = torch.autograd.grad(loss, other)
    assert not slope[~counted].any()  # what cannot be dropped is not asked for
    assert float(ranking_loss(pruner, (other - 1e-4 * slope).detach(), counted, attention)) < loss.item()


@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_a_run_ranks_tokens_as_the_teacher_does(tiny_backbone: Path, tmp_path: Path, method: str) -> None:
    make_trainer(make_config(tiny_backbone, "dense"), tmp_path / "dense").run()
    losses = {}
    for weight in (0.0, 4.0):
        config = make_config(
            None, method, init=str(tmp_path / "dense"), phases=["hard"], epochs=[6.0], distil_tokens=weight, lr=3e-3
        )
        trainer = make_trainer(config, tmp_path / f"{weight:g}")
        trainer.run()
        assert trainer.teacher is not None
        trainer.model.eval()
        losses[weight] = sum(_loss(trainer, batch) for batch in trainer.dev.batches(256))
    assert losses[4.0] < 0.9 * losses[0.0]


@torch.no_grad()
def _loss(trainer, batch: Batch) -> float:
    """How far the first decision's ranking is from the teacher's."""
    _, attention = answer_and_attention(trainer.teacher, batch, trainer._first_attended())
    out = trainer.model(batch.input_ids, batch.mask, batch.token_type_ids)
    layer = next(n for n, score in enumerate(out.score) if not score.isnan().all())
    counted = batch.mask > 0
    return float(ranking_loss(trainer.model.pruner, out.score[layer].nan_to_num(0), counted, attention))
