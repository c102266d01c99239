"""The table of docs/int8.md is the one of the committed results."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.int8_cpu import markdown_table

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "benchmarks" / "results" / f"int8-cpu-{method}.json" for method in ("ltp", "transkimmer")]


def test_the_docs_show_the_committed_figures() -> None:
    records = [json.loads(path.read_text("utf-8")) for path in FILES]
    assert markdown_table(records) in (ROOT / "docs" / "int8.md").read_text("utf-8")
