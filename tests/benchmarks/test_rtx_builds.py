"""What building for TensorRT-RTX takes: the table of docs/results.md is the one of the committed results."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.rtx_builds import METHODS, RESULTS, VARIANTS, markdown_table

DOCS = Path(__file__).parents[2] / "docs" / "results.md"


def test_the_docs_show_the_committed_figures() -> None:
    assert markdown_table(json.loads(RESULTS.read_bytes())) in DOCS.read_text("utf-8")


def test_a_build_that_was_not_measured_is_named() -> None:
    results = json.loads(RESULTS.read_bytes())
    gone, *kept = results["runs"]
    table = markdown_table({**results, "runs": {name: results["runs"][name] for name in kept}})
    (named,) = " ".join(table.split()).split("Not measured: ")[1:]
    assert gone in named.strip(".").split(", ") and not set(kept) & set(named.strip(".").split(", "))


def test_the_committed_builds_are_planned_as_they_can_be() -> None:
    runs = json.loads(RESULTS.read_bytes())["runs"]
    assert runs and set(runs) <= {f"{method}-{name}" for method in METHODS for name in VARIANTS}
    for name, run in runs.items():
        assert run["plugin_layers"] == (run["stage_ends"] if run["plugin"] else 0), name
        assert run["fused_attention"] == (0 if run["precision"] == "fp32" else run["fusible_attention"]), name
        assert "FAILED" not in {gate["status"] for gate in run["gates"].values()}
        assert {"decisions", "task metric"} <= {n for n, gate in run["gates"].items() if gate["status"] == "SKIPPED"}
