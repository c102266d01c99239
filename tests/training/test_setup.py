"""Where a run starts: backbones, checkpoints and adapters, and what adapters leave behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.errors import InputError
from pipeline.graph.stages import decision_layers
from pipeline.model import load_checkpoint
from pipeline.model.config import PrunerConfig
from pipeline.model.pruners import LTP_FLOOR
from pipeline.training.setup import make_trainee
from tests.conftest import LAYERS
from tests.model.families import make_original, random_text, run_original
from tests.training.runs import LABELS, make_config, make_trainer

ENCODER = ("embeddings.", "attention.", "feed_forward.")


@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_starts_from_the_backbones_weights(tiny_backbone: Path, tiny_model, rank: int) -> None:
    model = make_trainee(make_config(tiny_backbone, "transkimmer", adapter_rank=rank), LABELS).model
    state = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    want = {n: v for n, v in tiny_model("dense").state_dict().items() if n.startswith(ENCODER)}
    assert all(torch.equal(state[name], value) for name, value in want.items())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if rank:
        assert all(".lora_" in name or name.startswith(("head.", "pruner.")) for name in trained)
        assert sum(".lora_A" in name for name in trained) == 6 * LAYERS
    else:
        assert trained == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_a_fresh_pruner_keeps_everything(tiny_backbone: Path, method: str) -> None:
    model = make_trainee(make_config(tiny_backbone, method), LABELS).model.eval()
    ids = torch.randint(4, 60, (4, 16), generator=torch.Generator().manual_seed(0))
    assert sum(step.kind == "decide" for step in model.steps) == LAYERS - (method == "ltp")
    with torch.no_grad():
        assert model(ids).alive.all()


def test_the_same_seed_gives_the_same_start(tiny_backbone: Path) -> None:
    def start(seed: int) -> torch.Tensor:
        return make_trainee(make_config(tiny_backbone, "dense", seed=seed), LABELS).model.head.classifier.weight

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


@pytest.mark.parametrize("method", ["dense", "ltp", "transkimmer"])
def test_a_checkpoint_of_adapters_equals_the_model_in_memory(tiny_backbone: Path, tmp_path: Path, method: str) -> None:
    trainer = make_trainer(make_config(tiny_backbone, method, adapter_rank=2, lr=0.02), tmp_path)
    trainer.run()
    stored = load_file(tmp_path / "model.safetensors")
    assert all(".lora_" in name or name.startswith(("head.", "pruner.predictors")) for name in stored)
    assert all(float(value.abs().max()) > 0 for name, value in stored.items() if ".lora_B" in name)

    loaded, batch = load_checkpoint(tmp_path), trainer.dev.collate(range(8))
    trainer.model.eval()
    with torch.no_grad():
        ours, theirs = (m(batch.input_ids, batch.mask, batch.token_type_ids) for m in (trainer.model, loaded))
    torch.testing.assert_close(theirs.logits, ours.logits, atol=1e-5, rtol=0)
    assert torch.equal(theirs.alive, ours.alive)


def test_a_pruned_run_continues_adapters_and_loading_them_needs_no_peft(tiny_backbone: Path, tmp_path: Path) -> None:
    dense = make_trainer(make_config(tiny_backbone, "dense", adapter_rank=2, lr=0.02), tmp_path)
    dense.run()
    model = make_trainee(make_config(None, "ltp", init=str(tmp_path), adapter_rank=2), LABELS).model.eval()
    batch = dense.dev.collate(range(8))
    with torch.no_grad():
        ours = model(batch.input_ids, batch.mask, batch.token_type_ids)
        theirs = load_checkpoint(tmp_path)(batch.input_ids, batch.mask, batch.token_type_ids)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=0)
    code = "import pipeline.model as m, sys; m.load_checkpoint(sys.argv[1]); assert 'peft' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    with pytest.raises(InputError, match="adapters of rank 2; pass --adapter-rank 2"):
        make_trainee(make_config(None, "ltp", init=str(tmp_path), adapter_rank=0), LABELS)
    assert make_config(None, "ltp", init=str(tmp_path)).adapter_rank == 2


def test_learned_thresholds_are_saved_as_the_model_uses_them(tiny_backbone: Path, tmp_path: Path) -> None:
    """Below the floor is the floor, not 0: that means a layer that does not decide, which the first one is."""
    trainee = make_trainee(make_config(tiny_backbone, "ltp"), LABELS)
    trainee.model.pruner.thresholds.data = torch.tensor([-0.5, 0.0, 0.25, 0.1])
    trainee.save(tmp_path)
    saved = load_checkpoint(tmp_path)
    thresholds = [saved.pruner.threshold(layer) for layer in range(LAYERS)]
    assert thresholds == [trainee.model.pruner.threshold(layer) for layer in range(LAYERS)]
    assert thresholds[1] == pytest.approx(LTP_FLOOR)
    assert [saved.pruner.decides(layer) for layer in range(LAYERS)] == [False] + [True] * (LAYERS - 1)


@pytest.mark.parametrize("method", ["ltp", "transkimmer", "topk", "threshold"])
def test_only_the_layers_that_were_asked_for_decide(tiny_backbone: Path, tmp_path: Path, method: str) -> None:
    trainee = make_trainee(make_config(tiny_backbone, method, decide_at=[2, 0]), LABELS)
    trainee.save(tmp_path)
    for model in (trainee.model, load_checkpoint(tmp_path)):
        assert decision_layers(model) == [0, 2]


@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_layers_that_go_on_deciding_keep_what_they_have_learned(tiny_checkpoint, method: str) -> None:
    start = tiny_checkpoint(method)
    before = load_checkpoint(start)
    after = make_trainee(make_config(None, method, init=str(start), decide_at=[1]), before.config.head.labels).model
    assert decision_layers(after) == [1]
    assert after.pruner.threshold(1) == before.pruner.threshold(1)
    ours = {name: value for name, value in after.state_dict().items() if name.startswith("pruner.predictors")}
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in ours.items())
    assert len(ours) == (0 if method == "ltp" else len(before.pruner.predictors["1"].state_dict()))


@pytest.mark.parametrize("method", ["ltp", "transkimmer", "topk", "threshold"])
def test_a_pruner_that_goes_on_changes_in_what_was_asked_for_only(tiny_checkpoint, method: str) -> None:
    start = tiny_checkpoint(method, protect_first=False)
    before = load_checkpoint(start).config

    def after(**given) -> PrunerConfig:
        return make_trainee(make_config(None, method, init=str(start), **given), before.head.labels).model.config.pruner

    assert after() == before.pruner
    assert after(protect_first=True) == before.pruner.model_copy(update={"protect_first": True})
    rates = {"topk": {"keep_rates": [1.0, 0.25, 0.25, 0.25]}, "threshold": {"thresholds": [0.0, 0.75, 0.75, 0.75]}}
    assert after(keep_rate=0.25) == before.pruner.model_copy(update=rates.get(method, {}))
    if method in rates:
        (values,) = rates[method].values()
        few = after(keep_rate=0.25, decide_at=[0, 2]).model_dump()
        assert few[next(iter(rates[method]))] == [values[1], values[0], values[1], values[0]]


def test_predictors_that_go_on_keep_their_width(tiny_checkpoint) -> None:
    start = tiny_checkpoint("transkimmer")
    labels = load_checkpoint(start).config.head.labels
    config = make_config(None, "transkimmer", init=str(start), predictor_hidden=16)
    assert make_trainee(config, labels).model.config.pruner.predictor_hidden == 16
    with pytest.raises(InputError, match="its predictors are 16 wide; pass --predictor-hidden 16 or leave it out"):
        make_trainee(config.model_copy(update={"predictor_hidden": 64}), labels)


def test_a_layer_that_the_encoder_does_not_have_cannot_decide(tiny_backbone: Path) -> None:
    with pytest.raises(InputError, match=f"--decide-at: expected layers from 0 to {LAYERS - 1}, found 9"):
        make_trainee(make_config(tiny_backbone, "ltp", decide_at=[1, 9]), LABELS)


def test_a_backbone_without_all_of_the_encoder_is_refused(tiny_backbone: Path, tmp_path: Path) -> None:
    home = shutil.copytree(tiny_backbone, tmp_path / "backbone")
    weights = load_file(home / "model.safetensors")
    del weights["encoder.layer.2.attention.self.query.weight"]
    weights["embeddings.LayerNorm.bias"] = torch.zeros(5)
    save_file(weights, home / "model.safetensors")
    with pytest.raises(InputError) as error:
        make_trainee(make_config(home, "dense"), LABELS)
    assert str(error.value).splitlines()[1:] == [
        "  - attention.2.query.weight: missing",
        "  - embeddings.norm.bias: expected shape [32], found [5]",
    ]


def test_a_length_that_the_backbone_does_not_have_is_refused(tiny_backbone: Path) -> None:
    with pytest.raises(InputError, match="max_length is 99, the encoder takes 34"):
        make_trainee(make_config(tiny_backbone, "dense", max_length=99), LABELS)


@pytest.mark.parametrize(
    ("head", "labels", "message"),
    [
        (
            "classification",
            ["no", "yes"],
            "a classification of .*, the data is a classification of .'no', 'yes'.",
        ),
        ("classification", None, "the data is a regression;"),
        ("tagging", ["O", "B", "I"], "its head is a tagging"),
    ],
)
def test_a_start_of_another_task_is_refused(tiny_checkpoint, head: str, labels, message: str) -> None:
    config = make_config(None, "ltp", init=str(tiny_checkpoint("dense", head)))
    with pytest.raises(InputError, match=message):
        make_trainee(config, labels)


def test_a_start_that_is_no_checkpoint_is_refused(tiny_backbone: Path) -> None:
    with pytest.raises(InputError, match=r"which has no head; pipeline\.train --backbone .* trains one"):
        make_trainee(make_config(None, "ltp", init=str(tiny_backbone)), ["LABEL_0", "LABEL_1"])
    with pytest.raises(InputError, match=r"expected a checkpoint\.json or a Hugging Face config\.json, found neither"):
        make_trainee(make_config(None, "ltp", init=str(tiny_backbone.parent)), LABELS)


@pytest.mark.parametrize(("variant", "deciding"), [("xlm-roberta", [1, 2]), ("modernbert", [2])])
def test_a_fine_tuned_classifier_of_hugging_face_starts_a_run_whole(
    variant: str, deciding: list[int], tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """With its head and its labels in its own order; LTP decides in global layers but the first."""
    original = make_original(variant)
    original.config.id2label = {0: "up", 1: "down", 2: "flat"}
    original.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(tiny_tokenizer.read_bytes())
    trainee = make_trainee(make_config(None, "ltp", init=str(tmp_path)), ["up", "down", "flat"])
    model = trainee.model
    assert [layer for layer in range(3) if model.pruner.decides(layer)] == deciding
    ids, mask, types = random_text([9, 4], 1, seed=0)
    steps = [step for step in model.steps if step.kind != "decide"]
    with torch.no_grad():
        state = model.walk(model.embed(ids, types, mask), steps, model.decide_masked)
        logits = model.head(model.finished(state.hidden))
    want = run_original(original, ids, mask, types, model.config.encoder.pad_token_id)[1].logits
    torch.testing.assert_close(logits, want, atol=1e-5, rtol=0)
    trainee.save(tmp_path / "out")
    assert load_checkpoint(tmp_path / "out").config.head.labels == ["up", "down", "flat"]
