"""Weights of Hugging Face directories as they lie on disk: shards, pickles, narrow types, prefixes, names."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engines.errors import InputError
from pipeline.model import load_checkpoint
from pipeline.model.checkpoint import checkpoint_digest, read_config
from pipeline.model.huggingface import weights_digest
from tests.model.families import make_original
from tests.model.saved import edit_config, logits_of


def as_pickle(saved: Path, wrap: Callable[[dict], object] = dict) -> Path:
    file = saved / "pytorch_model.bin"
    torch.save(wrap(load_file(saved / "model.safetensors")), file)
    (saved / "model.safetensors").unlink()
    return file


def test_shards_are_one_model(original, expected: Tensor, tmp_path: Path) -> None:
    original.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    torch.testing.assert_close(logits_of(tmp_path), expected, atol=1e-5, rtol=0)
    before = weights_digest(tmp_path), checkpoint_digest(tmp_path)
    shards[-1].write_bytes(shards[-1].read_bytes()[:-1] + b"\x01")
    assert weights_digest(tmp_path) != before[0] and checkpoint_digest(tmp_path) != before[1]
    shards[1].unlink()
    with pytest.raises(InputError, match=rf"expected {len(shards)} files, found .*{shards[1].name} missing; copy"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "expected the index of a sharded model with a weight_map"),
        ("[]", "expected the index of a sharded model with a weight_map"),
        ('{"weight_map": {}}', "expected files beside it, found none"),
        ('{"weight_map": {"a": "../other.safetensors"}}', "expected files beside it, found ../other.safetensors"),
        ('{"weight_map": {"a": 7}}', "expected files beside it, found 7"),
    ],
)
def test_an_index_that_is_none_is_refused(saved: Path, index: str, message: str) -> None:
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors.index.json").write_text(index, "utf-8")
    with pytest.raises(InputError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_fp32(original, tmp_path: Path, dtype: torch.dtype) -> None:
    make_original("bert").to(dtype).save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    want = original.bert.embeddings.word_embeddings.weight.to(dtype).float()
    assert torch.equal(model.embeddings.word.weight, want)


@pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": state, "epoch": 3}])
def test_a_pickle_of_tensors_is_read_with_a_warning(
    saved: Path, expected: Tensor, caplog: pytest.LogCaptureFixture, wrap
) -> None:
    file = as_pickle(saved, wrap)
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(logits_of(saved), expected, atol=1e-5, rtol=0)
    assert f"{file}: reading a pickle, of which nothing but tensors is let in" in caplog.text
    assert read_config(saved).head.labels == ["LABEL_0", "LABEL_1", "LABEL_2"]


class Harmful:
    """What a pickle could run."""

    def __reduce__(self):
        return (Path.touch, (Path("/tmp/never"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"x": Harmful()},
            "expected a PyTorch file of nothing but tensors, found Weights only load failed: it needs getattr; save",
        ),
        ([1, 2], "expected names and tensors, found a list"),
        ({"epoch": 3}, "expected names and tensors, found a dict"),
    ],
)
def test_a_pickle_of_anything_else_is_refused(saved: Path, content: object, message: str) -> None:
    (saved / "model.safetensors").unlink()
    torch.save(content, saved / "pytorch_model.bin")
    with pytest.raises(InputError, match=message):
        load_checkpoint(saved)
    assert not Path("/tmp/never").exists()


def test_a_damaged_pickle_is_refused(saved: Path) -> None:
    file = as_pickle(saved)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"pytorch_model\.bin: expected a PyTorch file of nothing but tensors"):
        load_checkpoint(saved)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "0.auto_model.", "module._orig_mod.model."])
def test_prefixes_of_wrappers_do_not_matter(saved: Path, expected: Tensor, prefix: str) -> None:
    file = saved / "model.safetensors"
    save_file({prefix + name: value for name, value in load_file(file).items()}, file)
    torch.testing.assert_close(logits_of(saved), expected, atol=1e-5, rtol=0)


def test_two_models_in_a_file_are_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "module.bert.pooler.dense.bias": torch.zeros(32)}, file)
    with pytest.raises(InputError, match=r"expected one tensor for head.pooler.bias, found .*; keep one model"):
        load_checkpoint(saved)


def test_quantised_weights_are_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    name = "bert.encoder.layer.0.output.dense.weight"
    save_file({**tensors, name: tensors[name].to(torch.int8)}, file)
    with pytest.raises(InputError, match=rf"{name}: expected fp32, fp16 or bf16, found int8: quantised"):
        load_checkpoint(saved)
    edit_config(saved, quantization_config={"bits": 4})
    with pytest.raises(InputError, match="quantization_config must be absent"):
        load_checkpoint(saved)


@pytest.mark.parametrize("noted", [True, False])
def test_tied_word_embeddings_are_found_under_their_other_name(saved: Path, expected: Tensor, noted: bool) -> None:
    file, words, other = saved / "model.safetensors", "bert.embeddings.word_embeddings.weight", "decoder.weight"
    tensors, other = load_file(file), "any.name" if noted else "cls.predictions.decoder.weight"
    tensors[other] = tensors.pop(words)
    save_file(tensors, file, {words: other} if noted else None)
    torch.testing.assert_close(logits_of(saved), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name",
    [
        "bert.encoder.layer.0.attention.self.query.lora_A.default.weight",
        "bert.encoder.layer.0.output.adapters.mine.adapter_down.0.weight",
        "module.bert.embeddings.gate.weight",
    ],
)
def test_tensors_that_the_states_depend_on_are_not_left_out(saved: Path, name: str) -> None:
    """Without a word, answers would differ from those of the model that was saved."""
    file = saved / "model.safetensors"
    save_file({**load_file(file), name: torch.ones(2, 32)}, file)
    with pytest.raises(InputError, match=rf"others that nothing here computes with: {re.escape(name)}; merge adapters"):
        load_checkpoint(saved)


def test_layers_around_which_peft_has_put_its_own_are_named(saved: Path) -> None:
    file = saved / "model.safetensors"
    tensors = {f"base_model.model.{name}": value for name, value in load_file(file).items()}
    own = [name for name in tensors if ".query." in name]
    save_file({name.replace(".query.", ".query.base_layer."): value for name, value in tensors.items()}, file)
    with pytest.raises(
        InputError, match=rf"query\.base_layer\.\w+ and {len(own) - 3} more; merge adapters into the model"
    ):
        load_checkpoint(saved)


def test_tensors_outside_the_encoder_are_told(saved: Path, expected: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    file = saved / "model.safetensors"
    spare = {"bert.embeddings.position_ids": torch.arange(40)[None], "cls.predictions.bias": torch.ones(60)}
    save_file({**load_file(file), **spare}, file)
    torch.testing.assert_close(logits_of(saved), expected, atol=1e-5, rtol=0)
    assert not caplog.text
    save_file({**load_file(file), "crf.transitions": torch.ones(3, 3)}, file)
    torch.testing.assert_close(logits_of(saved), expected, atol=1e-5, rtol=0)
    assert f"{saved}: tensors that are not read: crf.transitions" in caplog.text


def test_shards_without_their_index_are_refused(original, tmp_path: Path) -> None:
    original.save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(
        InputError, match=r"expected model\.safetensors\.index\.json beside its shards, found model-00001"
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_named(saved: Path, name: str) -> None:
    (saved / "model.safetensors").unlink()
    (saved / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 133466304\n", "utf-8")
    with pytest.raises(InputError, match=rf"{name}: expected a .* file, found a pointer of Git LFS; run: git lfs pull"):
        load_checkpoint(saved)


def test_a_segment_table_of_another_size_is_refused(saved: Path) -> None:
    edit_config(saved, type_vocab_size=1)
    with pytest.raises(InputError, match=r"embeddings.token_type.weight: expected shape \[1, 32\], found \[2, 32\]"):
        load_checkpoint(saved)
