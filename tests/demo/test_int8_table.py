"""The INT8 tables of docs/results.md are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.int8_cpu import markdown_table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize("setting", ["cpu", "512"])
def test_the_docs_show_the_committed_figures(setting: str) -> None:
    files = [RESULTS / f"int8-{setting}-{method}.json" for method in ("ltp", "transkimmer")]
    records = [json.loads(path.read_text("utf-8")) for path in files]
    assert markdown_table(records) in (ROOT / "docs" / "results.md").read_text("utf-8")
