"""The target torch against OpenVINO on the CPU: what is compared, and the table that is made from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.torch_cpu import RESULTS, markdown_table, parser, run
from engines.errors import InputError

PAGE = Path(__file__).parents[2] / "docs" / "torch.md"
ROW = {
    "method": "ltp",
    "precision": "bf16",
    "batch": 8,
    "milliseconds": {"torch": 12.345, "cpu": 10.0},
    "ratio": 0.81,
    "same_tokens": 0.9375,
    "same_labels": 1.0,
    "logits": 0.0251,
    "size": 1.0419,
}
RECORD = {
    "machine": {"processor": "A CPU"},
    "versions": {"torch": "2.13.0", "openvino": "2026.1"},
    "threads": 1,
    "texts": 32,
    "rounds": 5,
    "rows": [ROW],
}


def test_the_table_has_times_answers_and_sizes() -> None:
    head, _, row, _, *note = markdown_table(RECORD).splitlines()
    assert head.count("|") == row.count("|")
    assert row == "| ltp | bf16 | 8 | 12.35 | 10.00 | 0.81 | 93.8 % | 100.0 % | 2.5e-02 | 1.042 |"
    assert "32 reviews; 1 thread;" in " ".join(note) and "PyTorch 2.13.0, OpenVINO 2026.1" in " ".join(note)


def test_the_page_shows_what_was_measured_or_that_nothing_was() -> None:
    page = PAGE.read_text("utf-8")
    if not RESULTS.is_file():
        assert "`python -m benchmarks.torch_cpu` compares the target with `cpu`: not measured yet." in page
        return
    record = json.loads(RESULTS.read_bytes())
    assert markdown_table(record) in page
    for row in record["rows"]:
        assert row["size"] <= 1.5 and row["same_labels"] == 1
        assert row["precision"] != "fp32" or (row["same_tokens"] == 1 and row["logits"] < 1e-3)


@pytest.mark.parametrize("artifacts", [[], ["one"], ["one", "two", "three"]])
def test_artifacts_come_in_pairs(artifacts: list[str]) -> None:
    with pytest.raises(InputError, match=f"artifacts: expected pairs, found {len(artifacts)}"):
        run(parser().parse_args(artifacts))
