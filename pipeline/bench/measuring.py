"""Times an artifact and dense models on the same texts, in one process, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from engines.tokenization import Text
from pipeline.builder.measure import Timing, Way, alternate

ARTIFACT = "pruned"
"""Its name in a record, as in an artifact's own bench.json."""
_WARMING = 32
"""Texts before the clock starts, and the longest one: libraries prepare for a shape when they first see it."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds for each text of a request of `batch` texts: over all requests, the median and the 95th percentile.

    A request's time is its median over the rounds, and it is answered before the next one starts.
    """

    name: str
    batch: int
    median: float
    p95: float


def timed(
    ways: Mapping[str, Way], texts: Sequence[Text], batch: int, rounds: int, progress: Progress
) -> tuple[list[Latency], list[Timing]]:
    """Every way on requests of `batch` texts, and, for more than one, on all texts as they would come from a file.

    There a runner regroups the texts of a window, and the others take them `batch` at a time.
    """
    warming = [*texts[:_WARMING], max(texts, key=lambda text: len("".join(text)))]
    task = progress.add_task(f"timing, batch {batch}", total=None)
    for way in ways.values():
        for start in range(0, len(warming), batch):
            way(warming[start : start + batch])
        way(warming)
    ours = dict(ways)
    requests = alternate(ours, texts, rounds, lambda: progress.advance(task), size=batch)
    windows = requests if batch == 1 else alternate(ours, texts, rounds, lambda: progress.advance(task))
    sizes = [min(batch, len(texts) - start) for start in range(0, len(texts), batch)]
    latencies = []
    for name, seconds in requests.items():
        each = [1e3 * one / size for one, size in zip(seconds, sizes, strict=True)]
        latencies.append(Latency(name, batch, statistics.median(each), float(np.percentile(each, 95))))
    timings = [
        Timing(name, batch, sum(seconds), len(texts) / sum(seconds), [round(one, 6) for one in seconds])
        for name, seconds in windows.items()
    ]
    progress.update(task, total=1, completed=1)
    return latencies, timings
