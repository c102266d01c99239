"""Settings that follow from the model that a run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engines.errors import InputError
from pipeline.model.config import EncoderConfig
from pipeline.training.config import TrainConfig
from pipeline.training.setup import make_trainee
from pipeline.training.suited import for_set, most_ratio, suited, unreachable, weights_in_layers, whole_rate
from tests.conftest import LONGEST
from tests.model.families import make_original
from tests.training.runs import LABELS, make_config


@pytest.fixture
def own(tmp_path: Path, tiny_tokenizer: Path) -> Path:
    """A fine-tuned classifier as transformers saves it."""
    make_original("bert", num_labels=2).save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "tokenizer.json").write_bytes(tiny_tokenizer.read_bytes())
    return tmp_path / "own"


def test_nothing_is_left_open(own: Path, tiny_backbone: Path) -> None:
    start = suited(TrainConfig(method="ltp", data="x", init=str(own)))
    assert (start.max_length, start.adapter_rank, start.lr, start.head_lr) == (40, 0, 5e-4, 5e-4)
    assert "lr" not in start.model_fields_set, "what is found is not what was given"
    anew = suited(TrainConfig(method="dense", data="x", backbone=str(tiny_backbone), lr=1e-3, adapter_rank=2))
    assert (anew.max_length, anew.adapter_rank, anew.lr, anew.head_lr) == (LONGEST + 2, 2, 1e-3, 5e-4)


@pytest.mark.parametrize(("tokens", "expected"), [(3_000, 512), (90_000, 900), (700_000, 4096)])
def test_a_small_set_is_learned_in_small_batches(own: Path, tokens: int, expected: int) -> None:
    config = suited(TrainConfig(method="ltp", data="x", init=str(own)))
    assert for_set(config, tokens).batch_tokens == expected
    given = suited(TrainConfig(method="ltp", data="x", init=str(own), batch_tokens=64))
    assert for_set(given, tokens).batch_tokens == 64


@pytest.mark.parametrize(
    ("tokens", "epochs", "expected"),
    [(30_000, 1, 0.02), (30_000, 4, 2e-3 * 600 / (4 * 30_000 / 512)), (3_000_000, 1, 2e-3), (3_000_000, 0.1, 0.016384)],
)
def test_in_few_steps_a_pruner_learns_faster(own: Path, tokens: int, epochs: float, expected: float) -> None:
    config = suited(TrainConfig(method="transkimmer", data="x", init=str(own), epochs=[epochs, 9]))
    assert for_set(config, tokens).pruner_lr == pytest.approx(expected, abs=1e-6)
    given = suited(TrainConfig(method="transkimmer", data="x", init=str(own), epochs=[epochs], pruner_lr=0.1))
    assert for_set(given, tokens).pruner_lr == 0.1


def test_wide_encoders_learn_slower() -> None:
    assert whole_rate(768) == 3e-5 and 5e-5 < whole_rate(384) < 2e-4 and whole_rate(1024) < 3e-5
    assert whole_rate(8) == 5e-4


def encoder(layers: int, width: int) -> EncoderConfig:
    sizes = {"vocab_size": 9, "heads": 2, "intermediate_size": 4 * width, "max_positions": 9}
    return EncoderConfig(family="bert", hidden_size=width, layers=layers, **sizes)


def test_weights_are_those_of_the_layers() -> None:
    assert weights_in_layers(encoder(12, 768)) == 84_934_656
    assert weights_in_layers(encoder(24, 1024)) > 150e6


def test_a_large_model_gets_adapters_over_its_own_directory(
    own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pipeline.training.suited._WHOLE", 100)
    config = make_config(None, "ltp", init=str(own))
    assert config.adapter_rank == 16
    labels = ["LABEL_0", "LABEL_1"]
    trainee = make_trainee(config, labels)
    trained = trainee.trained_tensors()
    assert trained and all(name.startswith(("head.", "pruner.")) or ".lora_" in name for name in trained)
    whole = make_trainee(make_config(None, "ltp", init=str(own), adapter_rank=0), labels).model
    ids = torch.tensor([[2, 5, 9, 3]])
    ours, theirs = (model.eval()(ids, torch.ones_like(ids)).logits for model in (trainee.model, whole))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_most_that_can_be_reached_is_dropping_all_but_the_first_token(tiny_backbone: Path) -> None:
    config = make_config(tiny_backbone, "ltp", flops_ratio=2.0, decide_at=[1])
    model = make_trainee(config, LABELS).model.config
    found = most_ratio(model, torch.tensor([12, 12]))
    assert 2.0 < found < 4 / 1.3
    assert unreachable(config, model, [12, 12]) is None
    with pytest.raises(InputError, match=rf"--flops-ratio 4: .* layers 1 reaches at most {found:.2f} on these texts"):
        unreachable(config.model_copy(update={"flops_ratio": 4.0}), model, [12, 12])
    assert unreachable(config.model_copy(update={"method": "topk", "flops_ratio": 9.0}), model, [12]) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"method": "ltp", "phases": ["hard"]}, 1.0),
        ({"method": "ltp", "phases": ["hard"], "distil_tokens": 3.0}, 3.0),
        ({"method": "ltp", "phases": ["hard"], "distil": 0.0}, 0.0),
        ({"method": "ltp"}, 0.0),
        ({"method": "transkimmer", "phases": ["hard"]}, 0.0),
    ],
)
def test_ltp_that_removes_tokens_from_the_start_learns_which_ones(
    own: Path, changes: dict[str, Any], expected: float
) -> None:
    assert suited(TrainConfig(data="x", init=str(own), **changes)).distil_tokens == expected
