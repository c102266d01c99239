"""What to do with an artifact that was just built."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from engines.head import HeadKind

_ASKED: dict[HeadKind, tuple[str, ...]] = {
    "ranking": ("--text", "who won?", "--text-b", "Anna Berg won the race in Rome."),
    "question_answering": ("--text", "Who won?", "--text-b", "Anna Berg won the race in Rome."),
    "tagging": ("--text", "Anna Berg won the race in Rome."),
}


def run_command(artifact: Path, kind: HeadKind) -> str:
    """The command that runs an artifact on what its head is asked: a text, or a query or question with a text."""
    words = ["-m", "pipeline.run", str(artifact), *_ASKED.get(kind, ("--text", "A film to remember."))]
    return f"{Path(sys.executable).name} {shlex.join(words)}"
