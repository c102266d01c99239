"""Loading engines: those of an artifact, and many at once."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from engines.artifact import Artifact
from engines.backends.base import Backend, Engine
from engines.binding import Binding
from engines.manifest import EngineRecord

Key = TypeVar("Key")
Loaded = TypeVar("Loaded")


def load_engine(artifact: Artifact, backend: Backend, record: EngineRecord, threads: int | None) -> Engine:
    """An engine of an artifact. Raises InputError for one that cannot be loaded, or is of another artifact by now."""
    return backend.load(artifact.file(record.file), threads, record.binding, artifact.content)


def keeping(backend: Backend, artifact: Artifact) -> Backend:
    """The same backend for an artifact's engines, each of which it loads once, whoever asks for it.

    On a device, whose memory is scarce, it keeps the last one only.
    """

    @functools.lru_cache(None if backend.device() is None else 1)
    def kept(file: Path, threads: int | None, binding: Binding | None) -> Engine:
        return backend.load(file, threads, binding, artifact.content)

    found = copy.copy(backend)
    found.load = lambda file, threads, binding=None, _=None: kept(file, threads, binding)  # type: ignore
    return found


def on_all_cores(load: Callable[[Key], Loaded], keys: Iterable[Key], threads: int | None) -> list[Loaded]:
    """What `load` gives for every key, in order; raises what it raises.

    Compiling an engine keeps one core busy, so as many are loaded at a time as there are cores, or `threads`.
    """
    with ThreadPoolExecutor(threads or _cores()) as pool:
        return list(pool.map(load, keys))


def _cores() -> int:
    """Of this machine, those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
