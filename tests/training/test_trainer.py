"""Runs of every method, early stop, what the budget lets win, and resuming wherever a run was interrupted."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from engines.errors import InputError
from pipeline.model import load_checkpoint
from pipeline.training import resume
from pipeline.training.evaluation import Evaluation, evaluate
from pipeline.training.trainer import Trainer
from tests.conftest import METHODS
from tests.training.runs import BACKBONE_PHASES, make_config, make_trainer

STATE_FILES = {"training_state.safetensors", "training_best.safetensors"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_leaves_a_loadable_checkpoint(tiny_backbone: Path, tmp_path: Path, method: str) -> None:
    trainer = make_trainer(make_config(tiny_backbone, method), tmp_path)
    history = trainer.run().history
    assert len({entry["phase"] for entry in history}) == BACKBONE_PHASES[method]
    assert all(math.isfinite(entry["loss"]) for entry in history)
    assert history[-1]["step"] == history[-1]["of"]
    assert {file.name for file in tmp_path.iterdir()} >= STATE_FILES  # until the run is recorded
    # What is on disk is what is in memory.
    saved, batch = load_checkpoint(tmp_path), trainer.dev.collate(range(8))
    trainer.model.eval()
    with torch.no_grad():
        ours, theirs = (m(batch.input_ids, batch.mask, batch.token_type_ids) for m in (trainer.model, saved))
    assert torch.equal(ours.alive, theirs.alive)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_training_learns_the_task_and_to_skip(tiny_backbone: Path, tmp_path: Path, method: str) -> None:
    config = make_config(
        tiny_backbone,
        method,
        epochs=[4.0, 4.0, 4.0] if method == "ltp" else [4.0, 6.0, 4.0],
        lr=3e-3,
        head_lr=1e-2,
        pruner_lr=0.03 if method == "ltp" else 0.01,
        ramp=0.2,
        flops_ratio=1.3,
        patience=50,
        seed=1,  # of so few steps on so small a model the outcome depends on what is sampled
    )
    trainer = make_trainer(config, tmp_path, examples=64)
    fresh = evaluate(trainer.model, trainer.train_set, 256)
    trainer.run()
    after = evaluate(load_checkpoint(tmp_path), trainer.train_set, 256)
    assert fresh.metric < 0.8 < 0.95 < after.metric
    assert fresh.flops_ratio <= 1.0 < 1.1 < after.flops_ratio


@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_the_finished_model_has_the_ratio_on_more_texts_than_the_states_before_it(
    tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("pipeline.training.trainer._CALIBRATION_EXAMPLES", 4)
    monkeypatch.setattr("pipeline.training.trainer._FEWEST_EXAMPLES", 1)
    config = make_config(tiny_backbone, method, phases=["hard"], decide_at=[1], flops_ratio=1.3)
    trainer = make_trainer(config, tmp_path, examples=96)
    for parameter in trainer.model.pruner.parameters():  # scores that differ between tokens
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    trainer.run()
    assert evaluate(load_checkpoint(tmp_path), trainer.train_set, 256).flops_ratio == pytest.approx(1.3, rel=0.01)


def outcome(directory: Path, trainer: Trainer) -> tuple:
    """Everything that a run decides; times differ."""
    history = [{k: v for k, v in entry.items() if k != "seconds"} for entry in trainer.result.history]
    tensors = {name: value.tolist() for name, value in load_file(directory / "model.safetensors").items()}
    return (directory / "checkpoint.json").read_text("utf-8"), history, tensors


class Interruption:
    """Stands for a function and raises KeyboardInterrupt instead of its n-th call."""

    def __init__(self, function: Callable, call: int) -> None:
        self.function, self.call, self.calls = function, call, 0

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls == self.call:
            raise KeyboardInterrupt
        return self.function(*arguments)


@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
@pytest.mark.parametrize("where", ["while_a_file_is_written", "in_a_step"])
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    tiny_backbone: Path, tmp_path: Path, method: str, where: str
) -> None:
    config = make_config(tiny_backbone, method, patience=1 if method == "transkimmer" else 4)
    target, function = (Trainer, Trainer._step) if where == "in_a_step" else (resume.os, os.replace)

    def run(out: Path, interrupt_at: int) -> tuple[Trainer, Interruption]:
        trainer, stop = make_trainer(config, out), Interruption(function, interrupt_at)
        with (
            mock.patch.object(target, function.__name__, lambda *arguments: stop(*arguments)),
            contextlib.suppress(KeyboardInterrupt),
        ):
            trainer.run()
        return trainer, stop

    whole, never = run(tmp_path / "whole", 0)
    want = outcome(tmp_path / "whole", whole)
    assert never.calls >= 5
    for call in range(1, never.calls + 1, 2):
        out = tmp_path / str(call)
        _, stopped = run(out, call)
        assert stopped.calls == call
        resumed, _ = run(out, 0)
        assert outcome(out, resumed) == want, f"interrupted in call {call} of {never.calls}"


def test_a_run_goes_on_with_its_own_settings_only(tiny_backbone: Path, tmp_path: Path) -> None:
    config = make_config(tiny_backbone, "transkimmer")
    stop = Interruption(os.replace, 6)  # the three files of the first checkpoint, its tensors and its state are there
    with mock.patch.object(resume.os, "replace", stop), pytest.raises(KeyboardInterrupt):
        make_trainer(config, tmp_path).run()
    other = config.model_copy(update={"lr": 1e-5, "seed": 9, "threads": 1})
    with pytest.raises(InputError, match="interrupted run with another lr, seed; use the same settings"):
        make_trainer(other, tmp_path).run()
    with pytest.raises(InputError, match="interrupted run with another content of --teacher; use the same settings"):
        make_trainer(config, tmp_path, content={"--teacher": "0" * 64}).run()
    same = make_trainer(config.model_copy(update={"threads": 1}), tmp_path)
    assert same.run().history


def test_a_damaged_state_is_an_input_error(tiny_backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "training_state.safetensors").write_bytes(b"\x08")
    with pytest.raises(InputError, match=r"training_state\.safetensors: expected a safetensors file"):
        make_trainer(make_config(tiny_backbone, "dense"), tmp_path).run()


def scripted(monkeypatch: pytest.MonkeyPatch, figures: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Dev evaluations return these (metric, FLOPs ratio) in turn; returns the list of those still unused."""
    left = list(figures)
    monkeypatch.setattr("pipeline.training.trainer.evaluate", lambda *_: Evaluation(*left.pop(0), keep=[]))
    return left


def test_a_phase_stops_early_without_gain(tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tiny_backbone, "dense", epochs=[4.0], evaluations=8, patience=2)
    left = scripted(monkeypatch, [(0.5, 1.0), (0.7, 1.0), (0.6, 1.0), (0.7, 1.0), (0.9, 1.0)])
    result = make_trainer(config, tmp_path).run()
    assert [entry["dev_metric"] for entry in result.history] == [0.5, 0.7, 0.6, 0.7]
    assert left == [(0.9, 1.0)]
    assert result.best.metric == 0.7


def test_under_pressure_a_state_must_reach_the_ratio_to_be_chosen(
    tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = ["fine_tune", "straight_through"]
    config = make_config(
        tiny_backbone, "transkimmer", phases=phases, epochs=[2.0], evaluations=4, patience=1, flops_ratio=2.0
    )
    # Behind the fine-tune: accurate but dense, cheaper, cheap enough, cheaper still but worse.
    figures = [(0.5, 1.0), (0.4, 1.0), (0.9, 1.0), (0.9, 1.5), (0.6, 1.95), (0.5, 3.0)]
    left = scripted(monkeypatch, figures)
    result = make_trainer(config, tmp_path).run()
    assert not left
    assert (result.best.metric, result.best.flops_ratio) == (0.6, 1.95)


def test_a_later_phase_replaces_the_checkpoint_only_by_a_better_one(
    tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.trainer.reach_ratio", lambda *_: 2.0)
    phases = ["fine_tune", "straight_through", "hard"]
    config = make_config(
        tiny_backbone, "transkimmer", phases=phases, epochs=[1.0], evaluations=1, patience=9, flops_ratio=2.0
    )
    left = scripted(monkeypatch, [(0.9, 1.0), (0.7, 2.0), (0.65, 2.0)])
    result = make_trainer(config, tmp_path / "worse").run()
    assert not left
    assert result.best.metric == 0.7
    scripted(monkeypatch, [(0.9, 1.0), (0.7, 3.0), (0.7, 2.0)])
    result = make_trainer(config, tmp_path / "equal").run()
    assert result.best.flops_ratio == 2.0, "of equal states the later one has the ratio that was asked for"


def test_evaluation_counts_rows_and_hits(tiny_backbone: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(tiny_backbone, "ltp"), tmp_path)
    model, data = trainer.model, trainer.train_set
    one, many = evaluate(model, data, 1), evaluate(model, data, 10**6)
    assert one == many  # whatever the batches
    assert model.training
    with torch.no_grad():
        labels = [model(b.input_ids, b.mask, b.token_type_ids).logits.argmax() for b in data.batches(1)]
        targets = [b.target[0] for b in data.batches(1)]
    assert one.metric == sum(a == b for a, b in zip(labels, targets, strict=True)) / len(data)
    assert one.keep == [1.0] * 4  # a fresh LTP model keeps everything, and padding is nothing
    assert one.flops_ratio == 1.0


def test_a_pruned_model_learns_from_its_dense_teacher(tiny_backbone: Path, tmp_path: Path) -> None:
    dense = make_trainer(make_config(tiny_backbone, "dense", epochs=[4.0]), tmp_path / "dense")
    dense.run()
    config = make_config(None, "ltp", init=str(tmp_path / "dense"), distil=1.0)
    assert [phase.name for phase in config.schedule] == ["soft", "hard"]
    trainer = make_trainer(config, tmp_path / "ltp")
    before = trainer.model.state_dict()["head.classifier.weight"].clone()
    assert torch.equal(before, dense.model.state_dict()["head.classifier.weight"])
    # With distillation alone the labels play no part: wrong ones lead to the same model.
    wrong = make_trainer(config, tmp_path / "wrong")
    assert isinstance(wrong.train_set.targets, torch.Tensor)
    wrong.train_set.targets = 1 - wrong.train_set.targets
    trainer.run()
    wrong.run()
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ltp", "wrong"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(ours["head.classifier.weight"], before)


def test_the_order_of_batches_is_the_same_for_the_same_seed(tiny_backbone: Path, tmp_path: Path) -> None:
    config = make_config(tiny_backbone, "dense", epochs=[1.5])

    def order(seed: int, out: str) -> list[list[int]]:
        trainer, seen = make_trainer(config.model_copy(update={"seed": seed}), tmp_path / out), []
        collate = trainer.train_set.collate
        with mock.patch.object(trainer.train_set, "collate", lambda c: (seen.append(list(c)), collate(c))[1]):
            trainer.run()
        return seen

    first = order(0, "first")
    assert order(0, "again") == first
    assert order(1, "other") != first
