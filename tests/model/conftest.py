"""A BERT classifier of transformers, and what it answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from tests.model.families import make_original, run_original
from tests.model.saved import IDS, MASK, TYPES


@pytest.fixture(scope="module")
def original():
    return make_original("bert")


@pytest.fixture(scope="module")
def expected(original) -> Tensor:
    return run_original(original, IDS, MASK, TYPES, 0)[1].logits


@pytest.fixture
def saved(original, tmp_path: Path) -> Path:
    """A BERT classifier of 3 labels, as transformers saves it."""
    original.save_pretrained(tmp_path)
    return tmp_path
