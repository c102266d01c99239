"""The document shows what the committed trials came to, all of them with nothing wrong."""

from __future__ import annotations

import json

from benchmarks import trials
from tests.reliability.mutants import MUTANTS


def test_the_document_shows_the_committed_counts() -> None:
    page = trials.PAGE.read_text("utf-8")
    assert trials.with_tables(page) == page
    assert trials.trials_table() in page and trials.mutants_table() in page


def test_every_kind_was_tried_with_a_fixed_and_a_fresh_seed() -> None:
    found = json.loads((trials.RESULTS / "trials.json").read_text("utf-8"))
    counts = {kind: {run["trials"] for run in runs.values()} for kind, runs in found.items()}
    assert counts == {
        "edits of a manifest": {200},
        "malformed checkpoints and tokenizers": {300},
        "malformed data files": {300},
        "single-byte corruptions": {500},
    }
    for runs in found.values():
        assert set(runs) == {"fixed seed", "fresh seed"} and not any(run["wrong"] for run in runs.values())


def test_the_mutants_are_those_of_the_sources() -> None:
    found = json.loads((trials.RESULTS / "mutants.json").read_text("utf-8"))
    assert [(m["row"], m["lost"], m["test"]) for m in found] == [(m.row, m.lost, m.test) for m in MUTANTS]
