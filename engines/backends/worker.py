"""What the processes that compile an engine share: asked on standard input, they answer in JSON lines.

Standard error is the log. Progress is {"phase", "done"}, the last line {"layers", "peak_bytes"} or {"error", "kind"};
"layers" has a list for every profile.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.errors import BuildError, InputError

Say = Callable[[dict[str, Any]], bool]
"""Sends a message; False when nobody listens any more."""


def answering(work: Callable[[dict[str, Any], Say], list[list[dict[str, Any]]]]) -> int:
    """Reads what is asked for, compiles, and answers: 0 when the engine is written; 1 with an answer why not.

    work: compiles what it is given, and returns the layers of every profile.
    """
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the library prints belongs into the log

    def say(message: dict[str, Any]) -> bool:
        try:
            channel.write(json.dumps(message) + "\n")
        except BrokenPipeError:
            return False
        return True

    try:
        layers = work(json.load(sys.stdin), say)
    except (InputError, BuildError) as error:
        say({"error": str(error), "kind": "input" if isinstance(error, InputError) else "build"})
        return 1
    except OSError as error:
        say({"error": error.strerror or str(error), "kind": "storage", "errno": error.errno})
        return 1
    say({"layers": layers, "peak_bytes": _peak_bytes()})
    return 0


def _peak_bytes() -> int:
    """Most memory that this process has held. Not getrusage's, which starts at what the parent held when it forked."""
    lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
