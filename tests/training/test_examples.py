"""What a run trains on: the task, the classes and their order, and what is refused or said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.errors import InputError
from pipeline import train
from pipeline.training.config import TrainConfig
from pipeline.training.examples import TrainingExamples
from pipeline.training.setup import make_trainee
from tests.gates.builds import run_verb
from tests.training.runs import make_config

MNLI = ["entailment", "neutral", "contradiction"]


@pytest.fixture
def config(tmp_path: Path, tiny_backbone: Path) -> Callable[..., TrainConfig]:
    """The settings of a run on files of these labels."""

    def make(labels: list, dev: list | None = None, backbone: Path | None = tiny_backbone, **changes) -> TrainConfig:
        for name, given in (("train", labels), ("dev", labels if dev is None else dev)):
            rows = [json.dumps({"label": label, "text": f"w{n} {name}"}) for n, label in enumerate(given)]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
        files = {"data": str(tmp_path / "train.jsonl"), "dev_data": str(tmp_path / "dev.jsonl")}
        return make_config(backbone, "dense", **files, **changes)

    return make


@pytest.mark.parametrize(
    ("labels", "task", "found"),
    [
        ([1, 2, 5, 4], None, ["1", "2", "4", "5"]),
        ([1, 2, 5, 4], "classification", ["1", "2", "4", "5"]),
        ([1, 2, 5, 4], "regression", None),
        ([0.0, 1.0], None, ["0", "1"]),
        ([0.0, 1.0, 0.5], None, None),
        ([0.0, 1.0, 0.5], "classification", ["0.0", "0.5", "1.0"]),
        (["b", "a"], None, ["a", "b"]),
    ],
)
def test_the_task_is_that_of_the_labels_or_the_one_that_is_given(config, labels, task, found) -> None:
    examples = TrainingExamples.read(config(labels, task=task))
    assert examples.labels == found
    assert any("--task regression" in line for line in examples.odd) is (task is None and len(found or []) == 4)


def test_a_run_goes_on_with_the_classes_of_its_start_in_their_order(config, tiny_backbone, tmp_path: Path) -> None:
    make_trainee(make_config(tiny_backbone, "dense"), MNLI).save(tmp_path / "start")
    init = {"backbone": None, "init": str(tmp_path / "start")}
    for labels in (["neutral", "contradiction", "entailment"], [1, 2, 0], ["Neutral", "Contradiction", "Entailment"]):
        examples = TrainingExamples.read(config(labels, **init))
        assert examples.labels == MNLI
        assert [e.label for e in examples.train] == ["neutral", "contradiction", "entailment"]
        assert any("taken as the model's classes" in line for line in examples.odd) is (labels[0] != "neutral")
    assert TrainingExamples.read(config(["neutral", "entailment"], **init)).labels == MNLI, (
        "one class is not in the data"
    )
    with pytest.raises(InputError, match=r"--task regression: expected that of --init .*, a classification"):
        TrainingExamples.read(config([1, 2], task="regression", **init))


def test_classes_are_in_the_order_of_a_backbone_that_has_them(config, tiny_backbone: Path, tmp_path: Path) -> None:
    raw = json.loads((tiny_backbone / "config.json").read_text("utf-8"))
    raw["id2label"] = dict(enumerate(MNLI))
    shutil.copytree(tiny_backbone, tmp_path / "mnli")
    (tmp_path / "mnli" / "config.json").write_text(json.dumps(raw), "utf-8")
    assert TrainingExamples.read(config(MNLI, backbone=tmp_path / "mnli")).labels == MNLI
    assert TrainingExamples.read(config([*MNLI, "other"], backbone=tmp_path / "mnli")).labels == sorted(
        [*MNLI, "other"]
    )


def test_a_limit_changes_no_classes(config) -> None:
    labels = ["b", "c"] * 3 + ["a"]
    examples = TrainingExamples.read(config(labels, limit=4))
    assert examples.labels == ["a", "b", "c"] and len(examples.train) == 4
    with pytest.raises(InputError, match=r"train\.jsonl with --limit 1: .* found only one label, 'b'"):
        TrainingExamples.read(config(labels, limit=1))


@pytest.mark.parametrize(("labels", "task"), [(["a", "a"], None), ([1, 1], "regression"), ([0.5, 0.5], None)])
def test_one_label_is_no_task(config, labels: list, task: str | None) -> None:
    with pytest.raises(InputError, match="found only"):
        TrainingExamples.read(config(labels, task=task))


def test_what_was_taken_is_said_before_the_run(config, tmp_path: Path, capsys) -> None:
    settings = config(["a", "b"] * 4, dev=["a"], max_length=4)
    given = {name: value for name, value in settings.model_dump().items() if name in settings.model_fields_set}
    (tmp_path / "train.jsonl").write_text(
        (tmp_path / "train.jsonl").read_text("utf-8") + '{"label": "a", "text": "w4 w5 w6"}\n', "utf-8"
    )
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert run_verb(train, *flags, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().err.splitlines()
    assert (
        f"data  {settings.data}: 9 rows, classification of 2 classes: a (5), b (4); 8 to 8 characters, 8 at the median"
        in said
    )
    assert f"WARNING: {settings.dev_data}: only one label, 'a', in all rows" in said
    assert f"WARNING: {settings.data}: 1 of 9 texts are longer than --max-length 4, and cut" in said


def test_columns_are_named_by_flags(config, tmp_path: Path) -> None:
    settings = config(["a", "b"])
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text("id,stars,review\n1,a,w4\n2,b,w5\n", "utf-8")
    files = {"data": str(tmp_path / "train.csv"), "dev_data": str(tmp_path / "dev.csv")}
    named = settings.model_copy(update={**files, "label": "stars", "text": "review"})
    assert [(e.label, e.text) for e in TrainingExamples.read(named).train] == [("a", "w4"), ("b", "w5")]
    with pytest.raises(InputError, match="--label, --text and --text-b name the columns of a file"):
        TrainingExamples.read(named.model_copy(update={"data": "movie-reviews"}))


def test_lists_of_one_label_each_are_several_labels_a_text_only_if_asked(config) -> None:
    with pytest.raises(InputError, match=r"every list has one label; .*--task multi_label"):
        TrainingExamples.read(config([["a"], ["b"], ["a"]]))
    for labels, task in (([["a"], ["b"]], "multi_label"), ([["a", "b"], ["a"]], None), ([["b", "a"], []], None)):
        head = TrainingExamples.read(config(labels, task=task)).head
        assert head is not None and (head.kind, list(head.labels)) == ("multi_label", ["a", "b"])
