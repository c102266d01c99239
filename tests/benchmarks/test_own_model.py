"""A fine-tuned classifier through the one command: what was measured, and the same measurement again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.own_model import table_of

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "benchmarks" / "results" / "own-model.json"


def holds(record: dict) -> None:
    """At most one point lost at 2.0 times fewer FLOPs, every gate passed."""
    assert record["texts"] == 5000 and record["held_out"]["reviews"] > 1000
    assert record["held_out"]["drop_points"] <= 1.0
    assert record["flops_ratio"] >= 1.95
    assert {gate["status"] for gate in record["gates"]} == {"PASSED"}


def test_the_committed_record_holds_what_is_promised() -> None:
    record = json.loads(RECORD.read_text("utf-8"))
    holds(record)
    assert record["flops_ratio"] >= 2.0 and record["wall_seconds"] <= 1800


def test_the_document_shows_the_record() -> None:
    page = (ROOT / "docs" / "own-model.md").read_text("utf-8")
    shown = page.split("own-model.json`) -->\n", 1)[1].split("<!-- own model table: end", 1)[0]
    assert shown.strip() == table_of(json.loads(RECORD.read_text("utf-8"))).strip()


@pytest.mark.slow
def test_it_holds_when_it_is_measured_again(tmp_path: Path) -> None:
    """About 20 minutes of processor time: half of it makes the classifier."""
    out = tmp_path / "record.json"
    command = [sys.executable, "-m", "benchmarks.own_model", "--work", tmp_path, "--json", out]
    subprocess.run(list(map(str, command)), check=True, cwd=ROOT)
    record = json.loads(out.read_text("utf-8"))
    holds(record)
    assert record["cpu_seconds"] <= 2 * 1800, "two cores for half an hour"
