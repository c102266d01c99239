"""The README's figures are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.demo import markdown_table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_pages_show_the_committed_figures(page: str) -> None:
    record = json.loads((RESULTS / "demo-cpu.json").read_text("utf-8"))
    assert markdown_table(record) in (ROOT / page).read_text("utf-8")


def test_the_headline_is_rounded_from_the_committed_results() -> None:
    """The first paragraph behind the drawing: speedups in batches of 8, and the largest drops."""
    demo = json.loads((RESULTS / "demo-cpu.json").read_text("utf-8"))["methods"]
    fp32 = [demo[method] for method in ("ltp", "transkimmer")]
    records = [
        json.loads((RESULTS / f"int8-cpu-{method}.json").read_text("utf-8")) for method in ("ltp", "transkimmer")
    ]
    int8 = [record["speedup_over_dense_fp32"]["pruned int8"]["8"] for record in records]
    drops = [
        record["artifacts"]["dense fp32"]["accuracy"] - record["artifacts"]["pruned int8"]["accuracy"]
        for record in records
    ]
    faster = [row["speedup"]["8"] for row in fp32]
    lost = max(demo["dense"]["accuracy"] - row["accuracy"] for row in fp32)
    headline = " ".join((ROOT / "README.md").read_text("utf-8").split("\n\n")[3].split())
    assert f"LTP is {faster[0]:.1f}x faster and Transkimmer {faster[1]:.1f}x faster" in headline
    assert f"at most {100 * lost:.1f} points of accuracy" in headline
    assert f"they are {int8[0]:.1f}x and {int8[1]:.1f}x faster than dense fp32" in headline
    assert f"for at most {100 * max(drops):.1f} points" in headline
