"""The verbs that a benchmark runs, each in a process of its own."""

from __future__ import annotations

import resource
import shlex
import subprocess
import sys
from pathlib import Path

from engines.errors import SkimError


class VerbError(SkimError):
    """A verb did not exit with 0; `exit_code` is its own. What it printed says why."""

    def __init__(self, command: str, exit_code: int) -> None:
        super().__init__(f"{command}: ended with exit code {exit_code}; what it printed says why")
        self.exit_code = exit_code


def run_verb(*words: object, cwd: Path | None = None, env: dict[str, str] | None = None, captured: bool = False) -> str:
    """Runs `python -m WORDS`; returns what it printed if that is to be captured, else "". Raises VerbError."""
    command = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE if captured else None, text=True)
    if done.returncode != 0:
        # A signal's number is negative here, and 128 above in a shell.
        raise VerbError(shlex.join(command[2:]), done.returncode if done.returncode > 0 else 128 - done.returncode)
    return done.stdout or ""


def child_seconds() -> float:
    """Processor time of the processes that this one has run, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
