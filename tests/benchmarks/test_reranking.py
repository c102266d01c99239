"""The flagship reranker: what was measured, the table of it, and how it is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.reranking import PASSAGES, calls_of, lost, ranked, table_of
from calib.data import Example
from pipeline.builder.stock import NAME

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "benchmarks" / "results" / "reranking-cpu.json"
PAIRS = [
    Example(f"query {query}", str(int(place == 2)), f"passage {place} of {query}")
    for query in range(4)
    for place in range(16)
]


def test_the_committed_record_holds_what_the_document_says() -> None:
    record = json.loads(RECORD.read_text("utf-8"))
    statuses = {gate["name"]: gate["status"] for gate in record["gates"]}
    assert set(statuses.values()) == {"PASSED"} and len(statuses) == 6
    assert lost(record)[0] <= 0.01
    assert len(record["ranked"]["pruned"]["ndcg@10"]) == 117, "the whole test split"
    assert record["ranked"]["pruned"]["flops_ratio"] >= 2.5
    spent = record["time"]
    assert min(times for name, times in spent["pruned_over"].items() if NAME in name) >= 2.0


def test_the_document_shows_the_record() -> None:
    page = (ROOT / "docs" / "reranking.md").read_text("utf-8")
    shown = page.split("reranking-cpu.json`) -->\n", 1)[1].split("<!-- reranking table: end", 1)[0]
    assert shown.strip() == table_of(json.loads(RECORD.read_text("utf-8"))).strip()


def test_every_query_counts_by_the_rank_of_its_passage() -> None:
    first = ranked(PAIRS, [float(pair.label) for pair in PAIRS])
    assert first == {"ndcg@10": [1.0] * 4, "mrr@10": [1.0] * 4}
    third = ranked(PAIRS, [-float(pair.text_b.split()[1]) for pair in PAIRS if pair.text_b])
    assert third["mrr@10"] == [round(1 / 3, 4)] * 4
    mean, error = lost({"ranked": {"dense": first, "pruned": third}})
    assert (mean, error) == (pytest.approx(0.5), pytest.approx(0))


def test_a_timed_query_has_its_own_passages_and_the_next_ones() -> None:
    calls = calls_of(PAIRS)
    assert [len(call) for call in calls] == [PASSAGES] * 3
    for number, call in enumerate(calls):
        assert {query for query, _ in call} == {f"query {number}"}
        assert [passage for _, passage in call[16:]] == [f"passage {place} of {number + 1}" for place in range(16)]
