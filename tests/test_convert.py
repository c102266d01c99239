"""python -m pipeline.convert: the golden cases through it, what it refuses, and what it leaves alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engines.tokenization import TextEncoder
from pipeline import convert
from pipeline.model import load_checkpoint
from pipeline.model.checkpoint import CHECKPOINT_FILES
from pipeline.model.originals.differences import differences
from pipeline.model.originals.execution import run_ltp
from pipeline.model.retention import padded
from tests.gates.builds import run_verb
from tests.goldens import CASES, GOLDEN, convert_case, golden_model, write_tokenizer


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


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty texts of one to thirty words of the golden models."""
    path, random = tmp_path_factory.mktemp("texts") / "data.tsv", Random(7)
    lines = (f"LABEL_0\t{' '.join(f'w{random.randint(4, 199)}' for _ in range(1 + n % 30))}\n" for n in range(40))
    path.write_text("".join(lines), "utf-8")
    return path


@pytest.mark.parametrize("case", ["ltp_b3_delta", "tk_bert_master_b3", "dense_roberta_b3"])
def test_what_the_original_runs_otherwise_is_measured(
    case: str, words: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert convert_case(case, GOLDEN / case, tmp_path / "out", words, "--data", texts) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("measured")]
    shares = [[float(share) for share in re.findall(r"([\d.]+)%", line)] for line in told]
    if case.startswith("dense"):
        assert shares == [[0, 0]]
    elif case.startswith("ltp"):
        fixed, longest, protected, dies = shares
        assert fixed == [0, 0] and longest[1] > 0  # by padding
        assert dies[0] > 0 and protected[1] >= dies[0]
    else:
        quiet, noisy, draws = shares
        assert quiet[1] > 0 and noisy[1] >= quiet[1] and draws[1] > 0


def test_the_shares_are_those_of_the_texts(words: Path, texts: Path) -> None:
    """Counted here by hand: every text alone, padded to 32, is LTP's run in its batch."""
    model = golden_model("ltp_b3_delta")
    encode = TextEncoder(words, model.config.max_length, 1)
    samples = encode([line.split("\t")[1] for line in texts.read_text("utf-8").splitlines()])
    fixed, longest, *_ = differences(model, samples)
    other = 0
    for start in range(0, len(samples), 8):
        batch = padded(samples[start : start + 8], 1)
        theirs = run_ltp(model, batch).alive
        ours = model(*batch).alive
        real = batch.mask.bool()
        other += sum(not torch.equal(theirs[:, r, real[r]], ours[:, r, real[r]]) for r in range(len(real)))
    assert (fixed.labels, fixed.kept) == (0, 0)
    assert longest.kept == other / len(samples) > 0


def test_bad_data_is_refused_before_anything_is_written(words: Path, tmp_path: Path) -> None:
    for more in (("--data", tmp_path / "none.tsv"), ("--samples", 0), ("--padded-length", 0)):
        assert convert_case("ltp_b3_delta", GOLDEN / "ltp_b3_delta", tmp_path / "out", words, *more) == 2
    assert not (tmp_path / "out").exists()


def test_a_cross_encoder_with_one_logit_is_a_reranker(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from tests.model.families import make_original, random_text, run_original

    for variant in ("bert", "xlm-roberta"):
        original, source = make_original(variant, num_labels=1), tmp_path / variant
        original.save_pretrained(source)
        tokenizer = write_tokenizer(tmp_path / f"{variant}.json")
        given = ("--from", "huggingface", source, tmp_path / f"{variant}-ours", "--tokenizer", tokenizer)
        assert run_verb(convert, *given, "--task", "ranking") == 0
        assert "dense, " in capsys.readouterr().out
        ours = load_checkpoint(tmp_path / f"{variant}-ours")
        assert ours.config.head.kind == "ranking"
        segments = ours.config.encoder.type_vocab_size
        ids, mask, types = random_text([9, 6], segments, seed=0)
        expected = run_original(original, ids, mask, types, 0)[1].logits
        with torch.no_grad():
            torch.testing.assert_close(ours(ids, mask, types).logits, expected, rtol=0, atol=1e-5)


def test_a_classifier_is_no_reranker(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from tests.model.families import make_original

    make_original("bert").save_pretrained(tmp_path / "src")
    given = ("--from", "huggingface", tmp_path / "src", tmp_path / "out", "--tokenizer", words, "--task", "ranking")
    assert run_verb(convert, *given) == 2
    assert "expected a model with one output (num_labels 1), found" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
