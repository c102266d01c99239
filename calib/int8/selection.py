"""Which buckets run in INT8: those where it is faster than the wider precision."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

from pydantic import BaseModel, ConfigDict

from engines.backends import Profile
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
        """Whether the INT8 engine runs the bucket."""
        return self.reason is None


def choose_profiles(
    pairs: Iterable[tuple[int, Bucket, Profile, Profile]],
    clock: Callable[[], float] = time.perf_counter,
) -> list[EngineChoice]:
    """Times each pair (stage, bucket, wide, INT8), alternating, and takes INT8 where it is faster."""
    choices = []
    for stage, bucket, wide, int8 in pairs:
        ratio = _speedup(wide, int8, clock)
        slower = None if ratio > 1 else f"takes {1 / ratio:.2f} times as long as the wider precision"
        choices.append(EngineChoice(stage=stage, bucket=bucket, speedup=ratio, reason=slower))
    return choices


def _speedup(wide: Profile, int8: Profile, clock: Callable[[], float]) -> float:
    """Median time of `wide` over that of `int8`; full buckets of the same token, in turns, the first of each unused."""
    times: tuple[list[float], list[float]] = ([], [])
    for profile in (wide, int8):
        for name, buffer in profile.inputs.items():
            buffer[...] = name == "alive"
    for turn in range(_WARM_UP + _ROUNDS):
        for which in (0, 1) if turn % 2 else (1, 0):
            started = clock()
            (wide, int8)[which].run()
            if turn >= _WARM_UP:
                times[which].append(clock() - started)
    return statistics.median(times[0]) / statistics.median(times[1])
