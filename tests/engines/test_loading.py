"""Engines are loaded in parallel, on the cores that the process may use."""

from __future__ import annotations

import os
from threading import Barrier, current_thread

import pytest

from engines.loading import on_all_cores


def test_engines_are_loaded_on_the_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that is bound to two cores of 96 must not start 96 compilers."""
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not bind processes to cores")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 7})
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    meet = Barrier(2, timeout=30)
    assert on_all_cores(lambda key: meet.wait() in (0, 1), range(4), None) == [True] * 4, "two at a time"
    seen: set[str] = set()
    on_all_cores(lambda key: seen.add(current_thread().name), range(200), None)
    assert len(seen) <= 2
