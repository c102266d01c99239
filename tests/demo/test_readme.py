"""The README's table is the one of the committed result."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.demo import markdown_table

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_the_committed_figures() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "demo-cpu.json").read_text("utf-8"))
    assert markdown_table(record) in (ROOT / "README.md").read_text("utf-8")
