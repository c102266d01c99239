"""Which engines run in INT8: those that are faster than the wider precision in their own bucket."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

from pydantic import BaseModel, ConfigDict

from engines.backends import Engine
from engines.buckets import Bucket

_ROUNDS, _WARM_UP = 9, 2


class EngineChoice(BaseModel):
    """One stage and bucket: how many times faster INT8 is (ratio of medians) and, if it is not used, why not."""

    model_config = ConfigDict(frozen=True)

    stage: int
    bucket: Bucket
    speedup: float
    reason: str | None = None

    @property
    def int8(self) -> bool:
        """Whether the INT8 engine is used."""
        return self.reason is None


def choose_engines(
    pairs: Iterable[tuple[int, Bucket, Callable[[], Engine], Callable[[], Engine]]],
    clock: Callable[[], float] = time.perf_counter,
) -> list[EngineChoice]:
    """Times each pair (stage, bucket, wide, INT8), alternating, and takes INT8 where it is faster.

    Engines come as functions that load them, so that no more than two are in memory.
    """
    choices = []
    for stage, bucket, load_wide, load_int8 in pairs:
        wide, int8 = load_wide(), load_int8()
        ratio = _speedup(wide, int8, clock)
        slower = None if ratio > 1 else f"takes {1 / ratio:.2f} times as long as the wider precision"
        choices.append(EngineChoice(stage=stage, bucket=bucket, speedup=ratio, reason=slower))
    return choices


def _speedup(wide: Engine, int8: Engine, clock: Callable[[], float]) -> float:
    """Median time of `wide` over that of `int8`; full buckets of the same token, in turns, the first of each unused."""
    times: tuple[list[float], list[float]] = ([], [])
    for engine in (wide, int8):
        for name, buffer in engine.inputs.items():
            buffer[...] = name == "alive"
    for turn in range(_WARM_UP + _ROUNDS):
        for place in (0, 1) if turn % 2 else (1, 0):
            started = clock()
            (wide, int8)[place].run()
            if turn >= _WARM_UP:
                times[place].append(clock() - started)
    return statistics.median(times[0]) / statistics.median(times[1])
