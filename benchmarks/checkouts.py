"""Two checkouts of the project on the same model, each with its own artifact: time per text, memory, start.

python -m benchmarks.checkouts ../before --pair ltp BEFORE_ARTIFACT AFTER_ARTIFACT [--pair ...] [--json FILE]

Each checkout runs in a process of its own. They answer the same texts in turns, never at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import write_record
from calib.data import read_examples
from engines.machine import machine_record
from pipeline.cli import main_of

HERE = Path(__file__).resolve().parents[1]
SIDES = ("before", "after")
_CHUNK = 32
"""Texts that one checkout answers before it is the other's turn."""
_SERVED = """
import json, sys, time
from pathlib import Path
from engines.runner import Runner

def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text("ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

def spent(work):
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}

path, threads, texts = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.stdin.readline())
empty, runner = anonymous(), None
for line in sys.stdin:
    asked = json.loads(line)
    if "batch" in asked:
        runner = None
        runner = Runner(path, threads=threads, max_batch=asked["batch"], truncate=True)
        answer = {}
    elif "warm_up" in asked:
        _, answer = spent(runner.warm_up)
    elif "memory" in asked:
        answer = {"anonymous": anonymous() - empty}
    else:
        found, answer = spent(lambda: runner([texts[n] for n in asked["texts"]]))
        answer["labels"] = [prediction.label for prediction in found]
    print(json.dumps(answer), flush=True)
"""
"""What a checkout's process does with its lines: what both of them have."""


class Checkout:
    """A process that runs an artifact with the code of a checkout."""

    def __init__(self, root: Path, artifact: Path, texts: Sequence[Any], threads: int | None) -> None:
        command = [sys.executable, "-c", _SERVED, str(artifact.resolve()), json.dumps(threads)]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        self._artifact, self.started = artifact, time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=environment
        )
        self._send(list(texts))

    def ask(self, **asked: object) -> dict[str, Any]:
        """What the process answers; RuntimeError if it has ended."""
        self._send(asked)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._artifact}: its process has ended: {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _send(self, line: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.checkouts", description=(__doc__ or "").splitlines()[0])
    p.add_argument("before", type=Path, help="the root of the other checkout; this one is `after`")
    p.add_argument(
        "--pair",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "BEFORE", "AFTER"),
        help="an artifact of each, of the same model and precision",
    )
    p.add_argument("--reviews", type=int, default=128, help="texts that are timed (default 128)")
    p.add_argument("--rounds", type=int, default=5, help="times that every chunk is timed (default 5)")
    p.add_argument("--threads", type=int, help="CPU threads of the engines")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return p


def run(args: argparse.Namespace) -> int:
    """Prints, and writes, how many times as fast this checkout is, and what each of them takes to start."""
    texts = [example.content for example in read_examples("movie-reviews", "test")[: args.reviews]]
    rows: dict[str, dict] = {}
    record = {**machine_record(), "threads": args.threads, "reviews": len(texts), "rounds": args.rounds, "pairs": rows}
    for name, before, after in args.pair:
        roots = dict(zip(SIDES, ((args.before.resolve(), Path(before)), (HERE, Path(after))), strict=True))
        rows[name] = {"start": {side: start(*roots[side], texts, args.threads) for side in SIDES}}
        print(f"{name}: {rows[name]['start']}", flush=True)
        pair = {side: Checkout(*roots[side], texts, args.threads) for side in SIDES}
        for batch in (1, 8):
            rows[name][f"batch {batch}"] = found = compare(pair, batch, len(texts), args.rounds)
            print(f"{name}, batch {batch}: {found}", flush=True)
        for checkout in pair.values():
            checkout.close()
        if args.json is not None:
            write_record(args.json, record)
    return 0


def start(root: Path, artifact: Path, texts: Sequence[Any], threads: int | None) -> dict[str, float]:
    """Seconds of a fresh process to its first answer and to load the rest; megabytes once every profile has run."""
    checkout = Checkout(root, artifact, texts, threads)
    checkout.ask(batch=None)
    checkout.ask(texts=[0])
    first = time.perf_counter() - checkout.started
    loading = checkout.ask(warm_up=True)
    checkout.ask(texts=list(range(len(texts))))
    anonymous = checkout.ask(memory=True)["anonymous"]
    checkout.close()
    return {
        "first_answer_seconds": round(first, 2),
        "load_seconds": round(loading["wall"], 2),
        "load_processor_seconds": round(loading["processor"], 2),
        "anonymous_megabytes": round(anonymous / 1e6),
    }


def compare(pair: dict[str, Checkout], batch: int, texts: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a text of both in turns, and by both clocks how many times as fast `after` is: of each chunk's
    medians, the median."""
    for checkout in pair.values():
        checkout.ask(batch=batch)
        checkout.ask(warm_up=True)
    chunks = [list(range(texts)[at : at + _CHUNK]) for at in range(0, texts, _CHUNK)]
    labels = {side: [checkout.ask(texts=chunk)["labels"] for chunk in chunks] for side, checkout in pair.items()}
    medians: dict[str, dict[str, list[float]]]
    medians = {clock: {side: [] for side in SIDES} for clock in ("processor", "wall")}
    for number, chunk in enumerate(chunks):
        answers: dict[str, list[dict]] = {side: [] for side in SIDES}
        for turn in range(rounds):
            for side in SIDES if (number + turn) % 2 else SIDES[::-1]:
                answers[side].append(pair[side].ask(texts=chunk))
        for clock, by_side in medians.items():
            for side, found in answers.items():
                by_side[side].append(statistics.median(answer[clock] for answer in found))
    result: dict[str, Any] = {"same_labels": labels["before"] == labels["after"]}
    for clock, by_side in medians.items():
        ratios = [old / new for old, new in zip(by_side["before"], by_side["after"], strict=True)]
        result[clock] = {
            "milliseconds": {side: round(1e3 * sum(seconds) / texts, 3) for side, seconds in by_side.items()},
            "times_as_fast": round(statistics.median(ratios), 3),
            "lowest_and_highest_chunk": [round(min(ratios), 3), round(max(ratios), 3)],
        }
    return result


if __name__ == "__main__":
    main_of(parser, run)
