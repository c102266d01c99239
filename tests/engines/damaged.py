"""Damaged artifacts: how a manifest is changed, and what opening and running one says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engines import Runner
from engines.artifact import Artifact
from engines.errors import InputError
from engines.manifest_file import sealed


def edit(directory: Path, change: Callable[[dict], object]) -> None:
    """Changes the manifest in place, and seals it again."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_bytes(sealed(manifest))


def refusal(directory: Path) -> str:
    """The error that opening, and running, a damaged artifact gives."""
    with pytest.raises(InputError) as opened:
        Artifact.open(directory)
    with pytest.raises(InputError) as run:
        Runner(directory)
    assert str(opened.value) == str(run.value)
    return str(opened.value)
