"""Timing by turns, against a clock that only the measured calls move."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from engines.machine import processor
from pipeline.builder import measure
from pipeline.builder.measure import Timing, alternate, as_record, speedups


class Clock:
    """Seconds that pass only while something is measured."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[str, int]] = []

    def way(self, name: str, costs: Sequence[float]) -> Callable[[Sequence], None]:
        """A way of running whose n-th call takes costs[n] seconds."""
        left = iter(costs)

        def call(texts: Sequence) -> None:
            self.calls.append((name, len(texts)))
            self.now += next(left)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that `measure` reads."""
    clock = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock.now)
    return clock


def test_the_median_of_the_rounds_counts_for_every_chunk(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_CHUNK", 2)
    costs = {"a": [1.0, 100.0, 3.0, 10.0, 20.0, 30.0], "b": [5.0] * 6}
    ways = {name: clock.way(name, values) for name, values in costs.items()}
    found = alternate(ways, ["one", "two", "three"], rounds=3)
    assert found == {"a": [3.0, 20.0], "b": [5.0, 5.0]}  # an outlier in one round changes nothing
    assert [size for _, size in clock.calls] == [2] * 6 + [1] * 6


def test_ways_take_turns_on_every_chunk_and_nobody_is_always_first(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_CHUNK", 1)
    ways = {name: clock.way(name, [1.0] * 6) for name in "abc"}
    ticks: list[int] = []
    alternate(ways, ["one", "two", "three"], 2, lambda: ticks.append(1))
    turns = [[name for name, _ in clock.calls[start : start + 3]] for start in range(0, 18, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert [turn[0] for turn in turns] == ["a", "b", "b", "c", "c", "a"]
    assert len(ticks) == 18


def test_speedups_compare_the_same_batch() -> None:
    timings = [
        Timing("pruned", 1, 2.0, 5.0, []),
        Timing("dense", 1, 6.0, 2.0, []),
        Timing("pruned", 8, 1.0, 10.0, []),
        Timing("dense", 8, 1.5, 7.0, []),
    ]
    assert speedups(timings, "pruned", "dense") == {1: 3.0, 8: 1.5}


def test_every_artifact_is_timed_warm_at_every_batch_size(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeRunner] = []

    class FakeRunner:
        """Costs its batch size in seconds when it is warm, a fortune when it is not."""

        def __init__(self, path: Path, max_batch: int, max_length: int, **_: object) -> None:
            assert max_length == 32
            self.path, self.batch, self.warm = path, max_batch, False
            made.append(self)

        def warm_up(self) -> None:
            self.warm = True

        def __call__(self, texts: Sequence[str]) -> None:
            clock.now += (2.0 if self.path.name == "dense" else 1.0) * len(texts) / self.batch if self.warm else 1e9

    monkeypatch.setattr(measure, "Runner", FakeRunner)
    monkeypatch.setattr(measure, "common_length", lambda paths: 32)
    monkeypatch.setattr(measure, "_kept", lambda path: None)
    monkeypatch.setattr(measure, "_CHUNK", 64)
    texts = ["text"] * 80
    timings = measure.measure({"pruned": Path("pruned"), "dense": Path("dense")}, texts, (1, 8), rounds=2)
    assert [(t.name, t.batch, t.seconds) for t in timings] == [
        ("pruned", 1, 80.0),
        ("dense", 1, 160.0),
        ("pruned", 8, 10.0),
        ("dense", 8, 20.0),
    ]
    assert [t.texts_per_second for t in timings] == [1.0, 0.5, 8.0, 4.0]
    assert timings[0].chunks == [64.0, 16.0] and math.fsum(timings[0].chunks) == timings[0].seconds
    assert len(made) == 4


def test_a_record_says_where_and_with_what_it_was_measured() -> None:
    record = as_record([Timing("pruned", 1, 2.0, 5.0, [2.0])])
    assert record["timings"] == [
        {"name": "pruned", "batch": 1, "seconds": 2.0, "texts_per_second": 5.0, "chunks": [2.0]}
    ]
    assert record["machine"]["processor"] and record["machine"]["cpus"] >= 1 and "numpy" in record["versions"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: A CPU\nflags\t\t: sse avx2 avx512f avx512_vnni\n", "A CPU (avx512_vnni)"),
        ("model name\t: A CPU\nflags\t\t: sse avx2 avx2_old\n", "A CPU (avx2)"),
        ("model name\t: A CPU\nflags\t\t: sse\n", "A CPU"),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp\n", f"{platform.processor() or platform.machine()} (asimddp)"),
    ],
)
def test_a_processor_is_named_with_its_widest_instructions(text: str, expected: str, tmp_path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert processor(tmp_path / "cpuinfo") == expected
    assert processor(tmp_path / "missing") == (platform.processor() or platform.machine())
