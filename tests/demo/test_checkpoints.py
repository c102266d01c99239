"""The shipped checkpoints: small, made by the command in their run.json, and what the demo's table says they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.builder.config import DEMO
from pipeline.demo import METHODS
from pipeline.model import load_checkpoint

LARGEST = 10 * 2**20


@pytest.mark.parametrize("method", METHODS)
def test_a_shipped_checkpoint_is_small_and_loads(method: str) -> None:
    assert (DEMO / method / "model.safetensors").stat().st_size <= LARGEST
    model = load_checkpoint(DEMO / method)
    assert model.config.pruner.method == method
    assert model.config.max_length == 256


@pytest.mark.parametrize("method", METHODS)
def test_a_shipped_checkpoint_says_how_it_was_made(method: str) -> None:
    record = json.loads((Path(DEMO) / method / "run.json").read_text("utf-8"))
    assert record["command"].startswith("python -m pipeline.train")
    split = json.loads((Path(DEMO).parent / "split.json").read_text("utf-8"))["splits"]
    used, digest = record["data"]["train"]
    assert used < split["train"]["examples"] or digest == split["train"]["sha256"]
