"""python -m pipeline.convert: the golden cases through it, what it refuses, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import convert
from pipeline.model import load_checkpoint
from pipeline.model.checkpoint import CHECKPOINT_FILES
from tests.gates.builds import run_verb
from tests.goldens import CASES, GOLDEN, convert_case, write_tokenizer


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json of the golden models."""
    return write_tokenizer(tmp_path_factory.mktemp("words") / "tokenizer.json")


def source_of(case: str, folder: Path, *, without: tuple[str, ...] = (), **changes: object) -> Path:
    """A copy of a golden case, its config.json changed."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = json.loads((GOLDEN / case / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**raw, **changes}), "utf-8")
    tensors = load_file(GOLDEN / case / "weights.safetensors")
    save_file({name: v for name, v in tensors.items() if name not in without}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("case", CASES)
def test_a_golden_case_is_converted(case: str, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert convert_case(case, GOLDEN / case, tmp_path / "out", words) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("wrote ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(CHECKPOINT_FILES)
    assert not list(tmp_path.glob(".*"))
    model = load_checkpoint(tmp_path / "out")
    method = {"ltp": "ltp", "transkimmer": "transkimmer", "huggingface": "dense"}[CASES[case]]
    assert model.config.pruner.method == method
    assert model.config.pruner.protect_first == (method != "ltp")


def test_every_problem_of_the_config_is_told_at_once(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = source_of(
        "ltp_b3_delta",
        tmp_path / "src",
        model_type="bert",
        quant_mode=True,
        prune_mode="rising_threshold",
        hidden_act="mish",
        hidden_size=None,
    )
    assert convert_case("ltp_b3_delta", source, tmp_path / "out", words) == 2
    told = capsys.readouterr().err
    for part in ("model_type must be 'ltp'", "quant_mode", "rising_threshold", "hidden_act"):
        assert told.count(part) == 1, told
    assert not (tmp_path / "out").exists()


def test_every_tensor_that_does_not_fit_is_listed_once(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    gone = "bert.encoder.layer.2.output.dense.bias"
    source = source_of("tk_bert_master_b3", tmp_path / "src", without=(gone,))
    tensors = load_file(source / "model.safetensors")
    tensors["classifier.weight"] = torch.zeros(3, 63)
    for layer in range(4):
        tensors[f"bert.encoder.layer.{layer}.adapter.down.weight"] = torch.zeros(2, 64)
    save_file(tensors, source / "model.safetensors")
    assert convert_case("tk_bert_master_b3", source, tmp_path / "out", words) == 2
    *_, shape, missing, unknown = capsys.readouterr().err.rstrip().splitlines()
    assert "head.classifier.weight: expected shape [3, 64], found [3, 63]" in shape
    assert "feed_forward.2.down.bias: missing" in missing
    assert "bert.encoder.layer.{0..3}.adapter.down.weight: not known" in unknown


def test_what_nothing_needs_is_named_once(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert convert_case("ltp_b3_delta", GOLDEN / "ltp_b3_delta", tmp_path / "out", words) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unused ")]
    stored = load_file(GOLDEN / "ltp_b3_delta" / "weights.safetensors")
    assert len(told) == len(set(told))
    assert any(line.endswith("ibert.encoder.layer.{0..3}.output.dense.weight_integer") for line in told)
    assert not any("keep_threshold" in line or line.endswith(".dense.weight") for line in told)
    assert 4 * len(told) > sum("integer" in name for name in stored)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_pickle_of_tensors_is_read_and_one_with_code_refused(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    case = "ltp_b3_delta"
    source = source_of(case, tmp_path / "src")
    tensors: dict[str, Tensor] = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin")
    assert convert_case(case, source, tmp_path / "out", words) == 0
    torch.save({**tensors, "code": Payload(tmp_path / "ran")}, source / "pytorch_model.bin")
    assert convert_case(case, source, tmp_path / "other", words) == 2
    assert "nothing but tensors" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists() and not (tmp_path / "other").exists()


def test_only_a_checkpoint_is_replaced_and_only_by_force(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, out = GOLDEN / "dense_bert_b3", tmp_path / "out"
    out.mkdir()
    assert convert_case("dense_bert_b3", source, out, words) == 0  # empty
    before = (out / "checkpoint.json").read_bytes()
    assert convert_case("ltp_b3_delta", GOLDEN / "ltp_b3_delta", out, words) == 2
    assert "--force" in capsys.readouterr().err
    assert (out / "checkpoint.json").read_bytes() == before
    assert convert_case("ltp_b3_delta", GOLDEN / "ltp_b3_delta", out, words, "--force") == 0
    assert load_checkpoint(out).config.pruner.method == "ltp"
    (out / "notes.txt").write_text("mine", "utf-8")
    assert convert_case("dense_bert_b3", source, out, words, "--force") == 2
    assert "notes.txt" in capsys.readouterr().err
    assert load_checkpoint(out).config.pruner.method == "ltp"
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    assert convert_case("dense_bert_b3", copy, copy, words, "--force") == 2
    link = tmp_path / "link"
    link.symlink_to(out)
    assert convert_case("dense_bert_b3", source, link, words, "--force") == 2


def test_a_tokenizer_must_come_from_somewhere(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run_verb(convert, "--from", "huggingface", GOLDEN / "dense_bert_b3", tmp_path / "out") == 2
    assert "--tokenizer" in capsys.readouterr().err


def test_baselines_of_ltp_are_read(words: Path, tmp_path: Path) -> None:
    case = "ltp_b3_delta"
    for mode, setting, field, expected in (
        ("threshold", {"token_threshold": 0.008}, "thresholds", [0.008] * 4),
        ("topk", {"token_keep_rate": 0.25}, "keep_rates", [1.0, 1.0, 1.0, 0.25]),
        (None, {}, "keep_rates", None),
    ):
        source = source_of(case, tmp_path / f"{mode}", prune_mode=mode, prune_kwargs=setting, **setting)
        assert convert_case(case, source, tmp_path / f"out-{mode}", words) == 0
        assert getattr(load_checkpoint(tmp_path / f"out-{mode}").config.pruner, field) == expected
