"""What a call took itself, beside other work: waits are taken off, but never work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.builder import own_time
from pipeline.builder.own_time import own_seconds

Spent = Mapping[str, tuple[float, float]]


@pytest.mark.parametrize(
    ("wall", "spent", "own"),
    [
        (1.0, {"1": (1.0, 0.0)}, 1.0),
        (3.0, {"1": (1.0, 2.0)}, 1.0),
        (3.0, {"1": (1.0, 0.5), "2": (1.0, 2.0)}, 1.0),  # both halves are needed, and the slower one is waited for
        (3.0, {"1": (2.0, 1.0), "2": (1.0, 2.0)}, 1.5),  # the first took over a part of what the second waited with
        (2.0, {"1": (2.0, 0.0), "2": (0.0, 2.0)}, 2.0),  # or all of it
        (1.0, {"1": (0.2, 0.0)}, 1.0),  # whatever it did the rest of the time, it did not wait for a processor
        (1.0, {}, 1.0),
    ],
)
def test_waits_for_a_processor_are_not_the_calls(
    wall: float, spent: Spent, own: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, threads = [5.0], dict.fromkeys(spent, (3.0, 4.0))

    def call() -> None:
        clock[0] += wall
        threads.update({name: (3 + running, 4 + waiting) for name, (running, waiting) in spent.items()})

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(own_time, "_spent", lambda: {n: own_time._Spent(*of) for n, of in threads.items()})
    assert own_seconds(call) == pytest.approx(own)


def test_without_counted_waits_it_is_the_wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in (tmp_path / "none", tmp_path):
        monkeypatch.setattr(own_time, "_THREADS", missing)
        (tmp_path / "1").mkdir(exist_ok=True)
        (tmp_path / "1" / "schedstat").write_text("no numbers", "ascii")
        assert own_time._spent() == {}
        assert own_seconds(lambda: time.sleep(0.001)) >= 0.001


def test_a_thread_counts_what_it_runs() -> None:
    if not own_time._spent():
        pytest.skip("this system does not count what threads wait for")
    before = sum(of.running for of in own_time._spent().values())
    started = time.process_time()
    while time.process_time() - started < 0.02:
        pass
    assert sum(of.running for of in own_time._spent().values()) - before >= 0.01
