"""The report of the demo: what skipping gives on each method, how it was measured, and what was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.report.charts import Bar, keep_ratio_chart, ratio_chart
from pipeline.report.page import method_name, write_page

_DENSE = "dense"
_WANTED_SHARE = {1: 0.90, 8: 0.95}
"""By batch size, the smallest share of the FLOPs ratio that should become speedup."""


def write_demo_report(record: dict, out: Path) -> Path:
    """Writes `out`/report.html from the record that pipeline.demo puts into results.json, and returns its path.

    record: `methods` by name, "dense" among them, each with accuracy, keep_ratio_per_layer, retention, flops_ratio,
    flops_ratio_timed, speedup by batch, stages and engines; `timings`; reviews, timed, tokens, data, machine, versions.
    Raises InputError when the file cannot be written.
    """
    methods: dict[str, Any] = record["methods"]
    pruned = {name: row for name, row in methods.items() if name != _DENSE}
    batches = sorted({timing["batch"] for timing in record["timings"]})
    rates = {(timing["name"], timing["batch"]): timing["texts_per_second"] for timing in record["timings"]}
    return write_page(
        "demo.html",
        out / "report.html",
        record=record,
        dense=methods[_DENSE],
        methods={_DENSE: methods[_DENSE], **pruned},
        pruned=pruned,
        batches=batches,
        rates=rates,
        shares={(name, batch): _share(row, batch) for name, row in pruned.items() for batch in batches},
        wanted=_WANTED_SHARE,
        chunks=len(record["timings"][0]["chunks"]),
        keep_chart=keep_ratio_chart({method_name(name): row["keep_ratio_per_layer"] for name, row in methods.items()}),
        ratios=ratio_chart(
            {method_name(name): _bars(name, row, batches, record["timings"]) for name, row in pruned.items()}
        ),
    )


def _share(row: dict, batch: int) -> float:
    """Returns the speedup over the FLOPs ratio, both over the timed reviews."""
    return row["speedup"][str(batch)] / row["flops_ratio_timed"]


def _bars(name: str, row: dict, batches: list[int], timings: list[dict]) -> list[Bar]:
    counted = Bar("FLOPs", row["flops_ratio_timed"], f"{row['flops_ratio_timed']:.2f}×", promised=True)
    measured = [
        Bar(
            f"time, batch {batch}",
            row["speedup"][str(batch)],
            f"{row['speedup'][str(batch)]:.2f}×",
            _middle_half(name, batch, timings),
        )
        for batch in batches
    ]
    return [counted, *measured]


def _middle_half(name: str, batch: int, timings: list[dict]) -> tuple[float, float]:
    """Lower and upper quartile of the time ratio of the chunks; both models ran a chunk one after the other."""
    chunks = {timing["name"]: timing["chunks"] for timing in timings if timing["batch"] == batch}
    ratios = sorted(dense / ours for dense, ours in zip(chunks[_DENSE], chunks[name], strict=True))
    quarter = len(ratios) // 4
    return ratios[quarter], ratios[-1 - quarter]
