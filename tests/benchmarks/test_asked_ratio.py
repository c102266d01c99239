"""The ratio that was asked for beside the one that was reached: what the document shows of the record."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.asked_ratio import table_of

ROOT = Path(__file__).resolve().parents[2]
RECORD = json.loads((ROOT / "benchmarks" / "results" / "asked-ratio.json").read_text("utf-8"))


def test_every_measured_ratio_is_within_a_twentieth_of_the_one_asked_for() -> None:
    assert RECORD["runs"] and all(abs(of["reached"] - of["asked"]) <= 0.05 for of in RECORD["runs"])


def test_the_document_shows_the_record() -> None:
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    shown = page.split("asked-ratio.json`) -->\n", 1)[1].split("<!-- asked table: end", 1)[0]
    assert shown.strip() == table_of(RECORD).strip()
