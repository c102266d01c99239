"""Moving the learned decisions to a wanted FLOPs ratio."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.training.evaluation import evaluate
from pipeline.training.reach_ratio import reach_ratio
from tests.training.runs import make_config, make_trainer


@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_the_ratio_is_reached_and_the_model_decides_so(tiny_backbone: Path, tmp_path: Path, method: str) -> None:
    trainer = make_trainer(make_config(tiny_backbone, method), tmp_path, examples=32)
    model, data = trainer.model, trainer.train_set
    for parameter in model.pruner.parameters():  # scores that differ between tokens
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    found = reach_ratio(model.pruner, 1.3, lambda: evaluate(model, data, 256).flops_ratio)
    assert found == pytest.approx(1.3, abs=0.06)
    assert evaluate(model, data, 256).flops_ratio == found


def test_thresholds_that_training_brought_below_the_floor_rise_again(tiny_backbone: Path, tmp_path: Path) -> None:
    """Multiplied, they stayed negative, while those of the other layers grew beyond all numbers."""
    trainer = make_trainer(make_config(tiny_backbone, "ltp"), tmp_path, examples=32)
    model, data = trainer.model, trainer.train_set
    model.pruner.thresholds.data[:-1] = -0.01
    measure = lambda: evaluate(model, data, 256).flops_ratio  # noqa: E731
    assert reach_ratio(model.pruner, 1.3, measure) == pytest.approx(1.3, abs=0.06)
    for _ in range(10):
        reach_ratio(model.pruner, 1000.0, measure)
    assert model.pruner.thresholds.isfinite().all()


def test_a_pruner_without_learned_numbers_is_left_alone(tiny_backbone: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(tiny_backbone, "topk"), tmp_path)
    calls = []
    assert reach_ratio(trainer.model.pruner, 3.0, lambda: calls.append(1) or 1.5) == 1.5
    assert calls == [1]
