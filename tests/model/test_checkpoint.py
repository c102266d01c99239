"""Checkpoints: what is written is what is read, and damaged or wrong ones are refused."""

from __future__ import annotations

import itertools
import json
import logging
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engines.errors import InputError
from engines.files import sha256
from pipeline.model import load_checkpoint, save_checkpoint
from pipeline.model.checkpoint import checkpoint_digest, read_config, tokenizer_path
from pipeline.model.config import BackboneReference
from pipeline.model.weights import find_weights, read_weights, write_weights
from tests.conftest import LABELS, METHODS, TinyModel
from tests.model.samples import lay_out, make_samples


def tensor_header(**entries: dict) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


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


def test_a_configuration_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_bytes(b'{"name": "\xe9"}')
    with pytest.raises(InputError, match=r"checkpoint\.json: expected a JSON object, found 'utf-8' codec can't decode"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl", "model.pth"])
def test_fault_01_a_pickle_is_refused_with_the_way_to_convert_it(tiny_checkpoint, tmp_path: Path, name: str) -> None:
    class Loud:
        def __reduce__(self):
            return Path(tmp_path / "ran").touch, ()

    directory = shutil.copytree(tiny_checkpoint("dense"), tmp_path / "checkpoint")
    (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(pickle.dumps({"state": Loud()}))
    with pytest.raises(InputError, match=rf"found {name}.*weights_only=True.*save_file"):
        load_checkpoint(directory)
    (directory / name).rename(directory / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: expected a safetensors file"):
        load_checkpoint(directory)
    assert not (tmp_path / "ran").exists()


PAIR = {"dtype": "F32", "shape": [2]}
DAMAGED = {
    "zero_bytes": b"",
    "shorter_than_the_header_length": b"\x10\x00\x00",
    "header_length_2_60": struct.pack("<Q", 2**60) + b"{}",
    "header_is_no_json": struct.pack("<Q", 4) + b"oops",
    "data_missing": tensor_header(a={**PAIR, "data_offsets": [0, 8]}) + b"1234",
    "data_left_over": tensor_header(a={**PAIR, "data_offsets": [0, 8]}) + b"x" * 12,
    "offsets_overlap": tensor_header(a={**PAIR, "data_offsets": [0, 8]}, b={**PAIR, "data_offsets": [4, 12]})
    + b"x" * 12,
    "shape_and_size_differ": tensor_header(a={**PAIR, "data_offsets": [0, 4]}) + b"1234",
    "a_petabyte_of_zeros": tensor_header(a={"dtype": "F32", "shape": [2**48], "data_offsets": [0, 2**50]}),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_fault_02_a_damaged_weight_file_is_refused_by_name_and_size(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(DAMAGED[damage])
    with pytest.raises(InputError, match=rf"model\.safetensors: .* found {len(DAMAGED[damage])} bytes .*again"):
        read_weights(file)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_fault_02_a_truncated_checkpoint_is_refused(tiny_checkpoint, tmp_path: Path, share: float) -> None:
    directory = shutil.copytree(tiny_checkpoint("ltp"), tmp_path / "checkpoint")
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(InputError, match="expected a safetensors file"):
        load_checkpoint(directory)


def test_fault_03_every_differing_weight_is_listed_once(tiny_checkpoint, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_checkpoint("dense"), tmp_path / "checkpoint")
    file = directory / "model.safetensors"
    weights = load_file(file)
    del weights["attention.0.query.weight"], weights["head.classifier.bias"]
    weights["feed_forward.1.up.bias"] = torch.zeros(3)
    save_file({**weights, "surplus": torch.zeros(1)}, file)
    with pytest.raises(InputError) as error:
        load_checkpoint(directory)
    assert str(error.value).splitlines()[1:] == [
        "  - attention.0.query.weight: missing",
        "  - head.classifier.bias: missing",
        "  - surplus: not a weight of a dense model",
        "  - feed_forward.1.up.bias: expected shape [64], found [3]",
    ]
    assert error.value.exit_code == 2


def test_fault_03_a_dense_model_given_as_a_pruned_one_is_refused(tiny_checkpoint, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_checkpoint("dense"), tmp_path / "checkpoint")
    shutil.copy(tiny_checkpoint("transkimmer") / "checkpoint.json", directory)
    with pytest.raises(InputError, match=r"32 problem\(s\)\n  - pruner\.predictors\.0\.0\.weight: missing"):
        load_checkpoint(directory)


def test_fault_03_a_bare_backbone_is_no_checkpoint(tiny_backbone: Path) -> None:
    with pytest.raises(InputError, match=r"head\.classifier\.weight: missing") as caught:
        load_checkpoint(tiny_backbone)
    assert f"which has no head; pipeline.train --backbone {tiny_backbone} trains one" in str(caught.value)


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


def test_a_directory_without_a_model_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected checkpoint\.json or a Hugging Face config\.json, found neither"):
        load_checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"expected model\.safetensors, found no weight file"):
        find_weights(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"expected one safetensors file, found a\.safetensors, b\.safetensors"):
        find_weights(tmp_path)
    with pytest.raises(InputError, match=r"expected a tokenizer\.json, found none"):
        tokenizer_path(tmp_path)


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


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.int8, torch.bool])
def test_weights_that_are_not_for_computing_are_refused(tiny_model, tiny_tokenizer, tmp_path: Path, dtype) -> None:
    model = tiny_model("ltp")
    weights = dict(model.state_dict())
    weights["head.classifier.weight"] = weights["head.classifier.weight"].to(dtype)
    save_checkpoint(model.config, weights, tmp_path, tiny_tokenizer)
    with pytest.raises(InputError, match=f"expected fp32, fp16 or bf16, found {str(dtype).removeprefix('torch.')}"):
        load_checkpoint(tmp_path)


SIZES = {
    "layers": 10**5,
    "vocab_size": 10**12,
    "hidden_size": 2**40,
    "intermediate_size": 10**9,
    "max_positions": 10**9,
    "heads": 10**9,
    "layer_norm_eps": -1e-12,
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_no_model_has_are_refused_before_they_cost_anything(tiny_checkpoint, tmp_path: Path, name) -> None:
    """Fault 31."""
    directory = shutil.copytree(tiny_checkpoint("dense"), tmp_path / "checkpoint")
    config = json.loads((directory / "checkpoint.json").read_text("utf-8"))
    config["encoder"][name] = SIZES[name]
    (directory / "checkpoint.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(InputError, match=f"encoder.{name}: "):
        load_checkpoint(directory)


def test_sizes_that_the_weights_do_not_have_are_never_allocated(tiny_checkpoint, tmp_path: Path) -> None:
    """A terabyte of embeddings, within the bounds of each size."""
    directory = shutil.copytree(tiny_checkpoint("dense"), tmp_path / "checkpoint")
    config = json.loads((directory / "checkpoint.json").read_text("utf-8"))
    config["encoder"] |= {"vocab_size": 2**24, "hidden_size": 2**15, "heads": 1}
    (directory / "checkpoint.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(
        InputError, match=r"embeddings\.word\.weight: expected shape \[16777216, 32768\], found \[60, 32\]"
    ):
        load_checkpoint(directory)


def test_a_pipe_in_the_place_of_weights_is_not_waited_for(tiny_checkpoint, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_checkpoint("dense"), tmp_path / "checkpoint")
    (directory / "model.safetensors").unlink()
    os.mkfifo(directory / "model.safetensors")
    with pytest.raises(InputError, match="found no weight file"):
        load_checkpoint(directory)


def test_nested_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match="expected a JSON object"):
        read_config(tmp_path)


def test_what_is_no_checkpoint_has_no_digest(tiny_checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a model that can be read, found .*config\.json: No such file"):
        checkpoint_digest(tmp_path)
    directory = shutil.copytree(tiny_checkpoint("dense"), tmp_path / "checkpoint")
    assert len(checkpoint_digest(directory)) == 64
    (directory / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"expected model\.safetensors, found no weight file"):
        checkpoint_digest(directory)
