"""What the tests of the verb train read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.training.runs import make_examples


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """train.jsonl and dev.jsonl of the tiny task."""
    for seed, name in enumerate(("train", "dev"), 1):
        rows = [json.dumps(dataclasses.asdict(example)) for example in make_examples(24, seed)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    return tmp_path
