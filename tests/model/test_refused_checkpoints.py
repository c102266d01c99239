"""Checkpoints that are damaged, wrong or none are refused, by name and before they cost anything."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.errors import InputError
from pipeline.model import load_checkpoint, save_checkpoint
from pipeline.model.checkpoint import checkpoint_digest, read_config, tokenizer_path
from pipeline.model.weights import find_weights, read_weights


def tensor_header(**entries: dict) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


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


SIZES = {
    "layers": 10**5,
    "vocab_size": 10**12,
    "hidden_size": 2**40,
    "intermediate_size": 10**9,
    "max_positions": 10**9,
    "heads": 10**9,
    "layer_norm_eps": -1e-12,
}


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


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.int8, torch.bool])
def test_weights_that_are_not_for_computing_are_refused(tiny_model, tiny_tokenizer, tmp_path: Path, dtype) -> None:
    model = tiny_model("ltp")
    weights = dict(model.state_dict())
    weights["head.classifier.weight"] = weights["head.classifier.weight"].to(dtype)
    save_checkpoint(model.config, weights, tmp_path, tiny_tokenizer)
    with pytest.raises(InputError, match=f"expected fp32, fp16 or bf16, found {str(dtype).removeprefix('torch.')}"):
        load_checkpoint(tmp_path)


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
