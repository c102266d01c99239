"""Every kind of head, by the commands of docs/own-model.md: what was measured, and the same measurement again."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import get_args

import pytest

from benchmarks.heads import PAGE, ROOT, commands, measured, table_of
from benchmarks.small_sets import SETS
from engines.head import HeadKind
from pipeline.training.evaluation import REACHED

RECORD = ROOT / "benchmarks" / "results" / "heads.json"
COMMANDS = commands(PAGE.read_text("utf-8"))
LEARNED = {
    "topics": 0.8,
    "labels": 0.7,
    "values": 0.7,
    "queries": 0.7,
    "entities": 0.8,
    "answers": 0.7,
    "texts": 0.9,
}
"""The least metric of a model that has learned: far above that of answers by chance, such as 0.2 of five topics."""


def holds(found: dict) -> None:
    """Dense and pruned have learned, the pruned one is within the budget and skips, and every gate passed."""
    figures = found["task_metric"]
    assert figures["dense_metric"] >= LEARNED[found["set"]] <= figures["metric"] + 0.01 * figures["budget_points"]
    assert figures["drop_points"] <= figures["budget_points"] <= (3 if found["head"] == "embedding" else 1)
    (asked,) = re.findall(r"--flops-ratio ([\d.]+)", " ".join(found["commands"]))
    assert found["flops_ratio"] >= REACHED * float(asked) and float(asked) >= 1.3
    assert set(found["gates"].values()) == {"PASSED"}
    assert found["cpu_seconds"] <= 2 * 300, "two cores for five minutes"


def test_the_page_has_commands_for_every_head() -> None:
    assert COMMANDS.keys() == SETS.keys() == LEARNED.keys() and len(COMMANDS) == len(get_args(HeadKind))
    for lines in COMMANDS.values():
        assert [line.split()[1] for line in lines][-2:] == ["skim", "run"]


def test_the_committed_record_holds_what_is_promised() -> None:
    """Of the heads that it has."""
    record = json.loads(RECORD.read_text("utf-8"))
    assert record["heads"]
    for found in record["heads"]:
        assert found["commands"] == COMMANDS[found["set"]], "of the page as it is"
        holds(found)


def test_the_document_shows_the_record() -> None:
    shown = PAGE.read_text("utf-8").split("heads.json`) -->\n", 1)[1].split("<!-- heads table: end", 1)[0]
    assert shown.strip() == table_of(json.loads(RECORD.read_text("utf-8"))).strip()


@pytest.mark.parametrize("part", ["", "-test"])
@pytest.mark.parametrize("name", ["entities", "answers"])
def test_made_up_reports_say_where_everything_is(name: str, part: str) -> None:
    rows = SETS[name](random.Random(1), part)
    assert rows == SETS[name](random.Random(1), part) and len({json.dumps(row) for row in rows}) > 0.9 * len(rows)
    for row in rows:
        if name == "answers":
            (answer,), (start,) = row["label"]["text"], row["label"]["answer_start"]
            assert row["text_b"][start : start + len(answer)] == answer and row["text"].endswith("?")
        for span in row["label"] if name == "entities" else []:
            assert row["text"][span["start"] : span["end"]].istitle()


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_of_the_page_run_as_they_stand(name: str, tmp_path: Path) -> None:
    """About three minutes of processor time each."""
    holds(measured(tmp_path, name, COMMANDS[name]))
