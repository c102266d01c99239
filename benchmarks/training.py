"""The trainings of a benchmark, each run once and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import portable
from benchmarks.verbs import run_verb
from pipeline.training.resume import RECORD


def trained(words: Sequence[object], out: Path) -> dict[str, Any]:
    """Runs pipeline.train with these words unless `out` holds a finished run; that run's record, its command portable.

    Raises VerbError.
    """
    if not (out / RECORD).is_file():
        run_verb("pipeline.train", *words, "--out", out)
    record = json.loads((out / RECORD).read_text("utf-8"))
    return {**record, "command": portable(record["command"])}
