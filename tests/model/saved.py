"""Hugging Face directories that tests change and load."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from pipeline.model import load_checkpoint
from tests.model.families import random_text

IDS, MASK, TYPES = random_text([9, 4], 2, seed=0)


def edit_config(directory: Path, drop: tuple[str, ...] = (), **changes) -> None:
    file = directory / "config.json"
    raw = {**json.loads(file.read_text("utf-8")), **changes}
    file.write_text(json.dumps({key: value for key, value in raw.items() if key not in drop}), "utf-8")


def logits_of(directory: Path) -> Tensor:
    with torch.no_grad():
        return load_checkpoint(directory)(IDS, MASK, TYPES).logits
