"""python -m pipeline.train: what an interrupted run leaves, what goes on, and whose directory it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.torch import save_file

from pipeline import train
from pipeline.model import load_checkpoint
from pipeline.training.resume import claimed
from pipeline.training.trainer import Trainer
from tests.gates.builds import run_verb
from tests.training.runs import LABELS
from tests.training.verb import flags, interrupted, save_dense


def test_an_interruption_has_its_own_exit_code(
    data: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.training.trainer.Trainer._step", stop)
        assert run_verb(train, *flags(data, tiny_backbone)) == 130
    assert "interrupted" in capsys.readouterr().err
    assert run_verb(train, *flags(data, tiny_backbone)) == 0


def test_an_output_that_cannot_be_written_is_named(
    data: Path, tiny_backbone: Path, capsys: pytest.CaptureFixture
) -> None:
    out = data / "train.jsonl" / "out"
    assert run_verb(train, *flags(data, tiny_backbone, "--out", out)) == 2
    assert f"error: --out {out}: cannot be written: Not a directory; " in capsys.readouterr().err


@pytest.mark.parametrize("written", range(5))
def test_a_full_disk_ends_a_run_that_goes_on_when_there_is_space(
    data: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, written: int
) -> None:
    left = iter(range(written))

    def save(*arguments: object) -> None:
        if next(left, None) is None:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.model.weights.save_file", save)
        assert run_verb(train, *flags(data, tiny_backbone)) == 2
    assert f"error: --out {data / 'out'}: cannot be written: No space left on device; " in capsys.readouterr().err
    assert run_verb(train, *flags(data, tiny_backbone)) == 0
    assert load_checkpoint(data / "out").config.head.labels == LABELS


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("train.jsonl", "content of the training texts;"),
        ("dev.jsonl", "content of the dev texts;"),
        ("init", "content of --init;"),
        ("teacher", "content of --teacher;"),
    ],
)
def test_an_interrupted_run_goes_on_with_the_same_inputs_only(
    data: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch, capsys, changed: str, named: str
) -> None:
    for name in ("init", "teacher"):
        save_dense(data / name, tiny_backbone, LABELS)
    given = flags(data, tiny_backbone, "--teacher", data / "teacher")
    given[given.index("--backbone") : given.index("--backbone") + 2] = ["--init", data / "init"]

    def interrupt(self: Trainer) -> None:
        if self.result.history:  # in the second phase, behind the first one's state
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_calibrate", interrupt)
        assert run_verb(train, *given) == 130
    if changed.endswith(".jsonl"):
        with (data / changed).open("a", encoding="utf-8") as file:
            file.write('{"text": "w7", "label": "bad"}\n')
    else:
        save_dense(data / changed, tiny_backbone, LABELS, seed=1)
    assert run_verb(train, *given) == 2
    assert f"interrupted run with another {named} use the same settings and files" in capsys.readouterr().err


def test_one_label_more_is_another_run(
    data: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = flags(data, tiny_backbone)
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.train.evaluate", interrupted)
        assert run_verb(train, *given) == 130
    with (data / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "w7", "label": "third"}\n')
    assert run_verb(train, *given) == 2
    assert "another content of the training texts" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["evaluate", "write_whole"])
def test_a_run_that_is_interrupted_before_its_record_is_written_is_not_trained_again(
    data: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    out = data / "out"
    with monkeypatch.context() as patched:
        patched.setattr(f"pipeline.train.{where}", interrupted)
        assert run_verb(train, *flags(data, tiny_backbone)) == 130
    weights = (out / "model.safetensors").read_bytes()
    assert not (out / "run.json").exists()
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", interrupted)
        assert run_verb(train, *flags(data, tiny_backbone)) == 0
    assert (out / "model.safetensors").read_bytes() == weights
    history = json.loads((out / "run.json").read_text("utf-8"))["history"]
    assert [entry["phase"] for entry in history] == ["fine_tune", "soft", "hard"]
    assert {path.suffix for path in out.iterdir()} == {".json", ".safetensors"}
    assert [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]


def test_a_directory_that_another_run_is_writing_is_refused_at_once(
    data: Path, tiny_backbone: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fault 25."""
    with claimed(data / "out"):
        assert run_verb(train, *flags(data, tiny_backbone)) == 2
    assert f"--out {data / 'out'}: another run is writing it" in capsys.readouterr().err
    assert run_verb(train, *flags(data, tiny_backbone, "--phases", "fine_tune")) == 0


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "checkpoint.json"])
def test_somebody_elses_checkpoint_is_not_trained_over(
    data: Path, tiny_backbone: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    """Fault 35."""
    (data / "out").mkdir()
    (data / "out" / name).write_text("years of work")
    assert run_verb(train, *flags(data, tiny_backbone)) == 2
    assert f"it holds {name}, which no interrupted run has left there" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in (data / "out").iterdir()] == [(name, "years of work")]


def test_a_checkpoint_can_be_read_by_whom_the_umask_lets(data: Path, tiny_backbone: Path) -> None:
    before = os.umask(0o022)
    try:
        assert run_verb(train, *flags(data, tiny_backbone, "--phases", "fine_tune")) == 0
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in (data / "out").iterdir()} == dict.fromkeys(
        ("checkpoint.json", "model.safetensors", "tokenizer.json", "run.json"), "0o644"
    )
