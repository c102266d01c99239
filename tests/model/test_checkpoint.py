"""Checkpoints: what is written is what is read, whatever interrupts the writing."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engines.errors import InputError
from engines.files import sha256
from pipeline.model import load_checkpoint, save_checkpoint
from pipeline.model.checkpoint import tokenizer_path
from pipeline.model.config import BackboneReference
from pipeline.model.weights import write_weights
from tests.conftest import LABELS, METHODS, TinyModel
from tests.model.samples import lay_out, make_samples


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("head", LABELS)
def test_a_saved_checkpoint_is_the_model(tiny_model: TinyModel, tiny_checkpoint, method: str, head: str) -> None:
    model, loaded = tiny_model(method, head), load_checkpoint(tiny_checkpoint(method, head))
    assert loaded.config == model.config
    assert not loaded.training
    inputs = lay_out(make_samples(model, [9, 4], 0), 9, [range(9), range(4)])
    with torch.no_grad():
        ours, theirs = loaded(*inputs), model(*inputs)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.alive, theirs.alive)


def test_a_checkpoint_is_three_files_and_none_is_a_pickle(tiny_checkpoint) -> None:
    directory = tiny_checkpoint("ltp")
    assert sorted(file.name for file in directory.iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert tokenizer_path(directory) == directory / "tokenizer.json"
    assert load_file(directory / "model.safetensors").keys() == load_checkpoint(directory).state_dict().keys()


@pytest.mark.parametrize("step", range(5))
def test_an_interrupted_save_leaves_the_old_checkpoint_or_none(
    tiny_checkpoint, tiny_model: TinyModel, tiny_tokenizer: Path, tmp_path: Path, monkeypatch, step: int
) -> None:
    old, new = tiny_model("ltp"), tiny_model("ltp", seed=1, thresholds=[0.0, 0.01, 0.02, 0.03])
    directory = shutil.copytree(tiny_checkpoint("ltp"), tmp_path / "checkpoint")
    (directory / "run.json").write_text("{}", "utf-8")
    names = sorted(file.name for file in directory.iterdir())
    calls = itertools.count()

    def counted(function):
        def call(*arguments):
            if next(calls) == step:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.model.checkpoint.write_weights", counted(write_weights))
        patched.setattr("shutil.copyfile", counted(shutil.copyfile))
        patched.setattr("os.replace", counted(os.replace))
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(new.config, dict(new.state_dict()), directory, tiny_tokenizer)
    if step < 2:  # nothing was replaced yet
        left = load_checkpoint(directory)
        assert left.config == old.config
        assert all(torch.equal(left.state_dict()[name], value) for name, value in old.state_dict().items())
    else:
        with pytest.raises(InputError, match=r"expected checkpoint\.json"):
            load_checkpoint(directory)
    save_checkpoint(new.config, dict(new.state_dict()), directory, tiny_tokenizer)
    assert load_checkpoint(directory).config == new.config
    assert sorted(file.name for file in directory.iterdir()) == names


def test_a_checkpoint_can_be_saved_with_its_own_tokenizer(tiny_checkpoint, tiny_model: TinyModel, tmp_path) -> None:
    directory = shutil.copytree(tiny_checkpoint("ltp"), tmp_path / "checkpoint")
    before = (directory / "tokenizer.json").read_bytes()
    model = tiny_model("ltp", seed=1)
    save_checkpoint(model.config, dict(model.state_dict()), directory, tokenizer_path(directory))
    assert (directory / "tokenizer.json").read_bytes() == before


def test_weights_that_cannot_be_written_are_an_error_of_the_system(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "missing" / "model.safetensors"
    with pytest.raises(FileNotFoundError) as error:
        write_weights(file, {"a": torch.zeros(2)})
    assert error.value.filename == str(file)

    def refuse(*_) -> None:
        raise SafetensorError("Error while serializing: invalid shape")

    monkeypatch.setattr("pipeline.model.weights.save_file", refuse)
    with pytest.raises(SafetensorError, match="invalid shape"):
        write_weights(file, {"a": torch.zeros(2)})


def test_fault_05_unusual_values_are_named_and_run_in_fp32(
    tiny_checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = shutil.copytree(tiny_checkpoint("dense"), tmp_path / "checkpoint")
    file = directory / "model.safetensors"
    weights = load_file(file)
    weights["head.classifier.bias"][0] = 7e4
    weights["embeddings.word.weight"][0, 0] = torch.nan
    weights["embeddings.word.weight"][1, 0] = -torch.inf
    save_file(weights, file)
    with caplog.at_level(logging.WARNING):
        model = load_checkpoint(directory)
    lines = [record.getMessage().split("weight ", 1)[1] for record in caplog.records]
    assert sorted(lines) == [
        "embeddings.word.weight: NaN or infinity",
        "head.classifier.bias: largest magnitude 7e+04 exceeds fp16",
    ]
    with torch.no_grad():
        assert model(torch.tensor([[2, 5, 3]])).logits.isfinite().all()  # the broken rows are not looked up


def test_half_precision_weights_are_read_as_fp32(tiny_checkpoint, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_checkpoint("ltp"), tmp_path / "checkpoint")
    file = directory / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(file).items()}, file)
    assert {value.dtype for value in load_checkpoint(directory).state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("head", ["classification", "tagging"])
def test_a_checkpoint_over_a_backbone_holds_only_what_was_trained(
    tiny_model: TinyModel, tiny_backbone: Path, tiny_tokenizer: Path, tmp_path: Path, head: str
) -> None:
    model = tiny_model("ltp", head)
    digest = sha256(tiny_backbone / "model.safetensors")
    reference = BackboneReference(name=str(tiny_backbone), sha256=digest)
    config = model.config.model_copy(update={"backbone": reference})
    trained = {name: value for name, value in model.state_dict().items() if name.startswith("head.")}
    save_checkpoint(config, trained, tmp_path, tiny_tokenizer)
    loaded = load_checkpoint(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())

    other = config.model_copy(update={"backbone": reference.model_copy(update={"sha256": "0" * 64})})
    save_checkpoint(other, trained, tmp_path, tiny_tokenizer)
    with pytest.raises(InputError, match=f"SHA-256 000000000000…, found {digest[:12]}"):
        load_checkpoint(tmp_path)
    save_checkpoint(config, {**trained, "attention.0.query.lora_A.weight": torch.ones(1, 32)}, tmp_path, tiny_tokenizer)
    with pytest.raises(InputError, match="has no 'adapter'"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_what_wrappers_put_in_front_of_names_is_dropped(
    tiny_model: TinyModel, tiny_tokenizer, tmp_path, prefix
) -> None:
    model = tiny_model("ltp")
    wrapped = {prefix + name: value for name, value in model.state_dict().items()}
    save_checkpoint(model.config, wrapped, tmp_path, tiny_tokenizer)
    found = load_checkpoint(tmp_path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
