"""The trainings of a benchmark, each run once and kept."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import portable
from pipeline.training.resume import RECORD


def trained(words: Sequence[object], out: Path) -> dict[str, Any]:
    """Runs pipeline.train with these words unless `out` holds a finished run; that run's record, its command portable.

    Raises CalledProcessError.
    """
    if not (out / RECORD).is_file():
        subprocess.run([sys.executable, "-m", "pipeline.train", *map(str, words), "--out", str(out)], check=True)
    record = json.loads((out / RECORD).read_text("utf-8"))
    return {**record, "command": portable(record["command"])}
