"""Loading many engines at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Loaded = TypeVar("Loaded")


def on_all_cores(load: Callable[[Key], Loaded], keys: Iterable[Key], threads: int | None) -> list[Loaded]:
    """What `load` gives for every key, in order; raises what it raises.

    Compiling an engine keeps one core busy, so as many are loaded at a time as there are cores, or `threads`.
    """
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return list(pool.map(load, keys))
