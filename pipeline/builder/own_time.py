"""The time of a call on a machine that other work shares."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_THREADS = Path("/proc/self/task")


class _Spent(NamedTuple):
    """Seconds that a thread has run, and that it was ready to run but had to wait for a processor."""

    running: float
    waiting: float


def own_seconds(call: Callable[[], object]) -> float:
    """Seconds of a call, without those for which its threads had to wait for a processor.

    Other work makes a long call on all cores wait more than a short one, so wall-clock times would make large batches
    look dear. Threads share a call, so it takes as much longer as the longest wait among them; but no less than their
    processor time divided by their number, where one thread took over another's share. Where the system does not
    count waits (Linux does), it is the wall-clock time.
    """
    before = _spent()
    started = time.perf_counter()
    call()
    wall = time.perf_counter() - started
    after = _spent()
    spent = [
        _Spent(now.running - then.running, now.waiting - then.waiting)
        for thread, now in after.items()
        for then in (before.get(thread, _Spent(0, 0)),)
    ]
    worked = [of.running for of in spent if of.running > 0]
    if not worked:
        return wall
    waited = max(of.waiting for of in spent)
    return min(wall, max(wall - waited, sum(worked) / len(worked)))


def _spent() -> dict[str, _Spent]:
    """What the threads of this process have spent, by thread; empty where that is not counted."""
    found = {}
    try:
        for thread in _THREADS.iterdir():
            running, waiting, _ = (thread / "schedstat").read_text("ascii").split()
            found[thread.name] = _Spent(1e-9 * int(running), 1e-9 * int(waiting))
    except (OSError, ValueError):
        return {}
    return found
