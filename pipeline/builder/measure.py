"""Times several artifacts on the same texts: in one process, in turns, with ratios of medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from engines.artifact import Artifact
from engines.backends import Backend, choose_backend
from engines.loading import keeping
from engines.machine import machine_record
from engines.runner import Runner
from engines.tokenization import Text
from pipeline.builder.stock import NAME as STOCK
from pipeline.builder.stock import StockModel

_CHUNK = 256
"""Texts in a chunk: as many as the runner regroups together by default."""
_WARMING = 32
"""Texts before the clock starts. Every engine has run once by then, and what is left is the tokenizer and Python."""


Way = Callable[[Sequence[Text]], object]
"""What answers texts."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one way of running over all texts: the sum of each chunk's median over the rounds."""

    name: str
    batch: int
    seconds: float
    texts_per_second: float
    chunks: list[float]


def alternate(
    ways: dict[str, Way],
    texts: Sequence[Text],
    rounds: int,
    tick: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = lambda: time.perf_counter(),
    size: int | None = None,
) -> dict[str, list[float]]:
    """Returns the median seconds of every way for each chunk of `size` texts. The ways take turns on each chunk, so
    drift affects all alike.
    """
    size = size or _CHUNK
    chunks = [texts[start : start + size] for start in range(0, len(texts), size)]
    medians: dict[str, list[float]] = {name: [] for name in ways}
    for number, chunk in enumerate(chunks):
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds):
            names = list(ways)
            shift = (number + turn) % len(names)  # no way is always first
            for name in names[shift:] + names[:shift]:
                started = clock()
                ways[name](chunk)
                times[name].append(clock() - started)
                tick()
        for name, values in times.items():
            medians[name].append(statistics.median(values))
    return medians


def measure(
    artifacts: dict[str, Path],
    texts: Sequence[Text],
    batches: Sequence[int],
    rounds: int,
    progress: Progress | None = None,
    threads: int | None = None,
) -> list[Timing]:
    """Times every artifact at every batch size, end to end: texts in, predictions out, tokenisation included.

    At batch 1 each text is answered before the next one starts; at batch n the runner regroups what a chunk of texts
    leaves it. Every engine is loaded before the clock starts, once for all batch sizes. All see the same tokens, those
    of `common_length`.
    An artifact named STOCK is a dense one whose graph is timed as OpenVINO runs it by its own defaults (`StockModel`).
    """
    timings, length = [], common_length(artifacts.values())
    backends = {name: _kept(path) for name, path in artifacts.items() if name != STOCK}
    for batch in batches:
        total = len(artifacts) * rounds * -(-len(texts) // _CHUNK)
        task = progress.add_task(f"timing, batch {batch}", total=total) if progress else None
        ways: dict[str, Way] = {}
        for name, path in artifacts.items():
            if name == STOCK:
                ways[name] = StockModel(path, batch, length, threads)
                ways[name](texts[:_WARMING])
                continue
            limits: dict[str, Any] = {"threads": threads, "max_batch": batch, "max_length": length}
            runner = Runner(path, target=backends[name], truncate=True, verify=False, **limits)
            runner.warm_up()
            runner(list(texts[:_WARMING]))
            ways[name] = runner

        def tick(task: TaskID | None = task) -> None:
            if progress is not None and task is not None:
                progress.advance(task)

        for name, chunks in alternate(ways, texts, rounds, tick).items():
            timings.append(Timing(name, batch, sum(chunks), len(texts) / sum(chunks), [round(c, 5) for c in chunks]))
    return timings


def _kept(path: Path) -> Backend:
    """What runs an artifact here, with engines that several runners share."""
    artifact = Artifact.open(path, verify=False)
    return keeping(choose_backend("auto", None, artifact.manifest.built, artifact.manifest.bindings), artifact)


def common_length(artifacts: Iterable[Path]) -> int:
    """The most tokens that all artifacts take: cut at different lengths, texts are different work."""
    return min(Artifact.open(path, verify=False).manifest.max_length for path in artifacts)


def speedups(timings: Sequence[Timing], name: str, baseline: str) -> dict[int, float]:
    """Returns how many times faster `name` is than `baseline`, by batch size."""
    seconds = {(t.name, t.batch): t.seconds for t in timings}
    return {t.batch: seconds[baseline, t.batch] / t.seconds for t in timings if t.name == name}


def as_record(timings: Sequence[Timing]) -> dict:
    """Returns the record for a results file: the machine, the versions, and every figure."""
    return {**machine_record(), "timings": [asdict(timing) for timing in timings]}
