"""How long a build of a shipped model takes to its first progress bar, in this checkout and in an earlier one.

python -m benchmarks.first_line [--against ../earlier] [--rounds 3] [--json FILE]

Every build is a process of its own in a terminal of its own, is timed to its first bar, and is then ended. The
checkouts take turns. Processor seconds are those that the process has spent by then, on all cores.
"""

from __future__ import annotations

import argparse
import os
import pty
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.records import write_record
from engines.errors import SkimError
from engines.machine import machine_record
from pipeline.cli import main_of

HERE = Path(__file__).resolve().parents[1]
_BAR = b"reference (PyTorch)"
_TICKS = os.sysconf("SC_CLK_TCK")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.first_line",
        description="Times builds of a shipped model from their start to their first progress bar.",
    )
    p.add_argument("--against", type=Path, help="another checkout of the project, which takes turns with this one")
    p.add_argument("--checkpoint", default="ltp", help="the shipped model (default ltp)")
    p.add_argument("--rounds", type=int, default=3, help="builds of each checkout (default 3)")
    p.add_argument("--json", type=Path, help="where to write the record")
    return p


def run(args: argparse.Namespace) -> int:
    """Prints every build's seconds, and the medians of every checkout."""
    checkouts = {"here": HERE, **({} if args.against is None else {"against": args.against.resolve()})}
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(args.rounds):
        for name, root in checkouts.items():
            seconds[name].append(to_first_bar(root, args.checkpoint))
            print(f"{name:<8} {seconds[name][-1]}", flush=True)
    medians = {
        name: {kind: round(statistics.median(one[kind] for one in each), 2) for kind in each[0]}
        for name, each in seconds.items()
    }
    for name, median in medians.items():
        print(f"{name:<8} {median['wall']:6.1f} s, {median['processor']:6.1f} s of processor time")
    if args.json is not None:
        record = {**machine_record(), "checkpoint": args.checkpoint, "seconds": medians, "each": seconds}
        write_record(args.json, record)
    return 0


def to_first_bar(root: Path, checkpoint: str) -> dict[str, float]:
    """Seconds of a build with the code of a checkout until it shows a bar. Raises SkimError if it ends before."""
    ours, theirs = pty.openpty()
    with tempfile.TemporaryDirectory() as folder:
        model = ["--checkpoint", str(root / "demo" / "checkpoints" / checkpoint), "--precision", "fp32"]
        command = [sys.executable, "-m", "pipeline.build", *model, "--out", str(Path(folder) / "artifact")]
        environment = {**os.environ, "PYTHONPATH": str(root), "TERM": "xterm", "COLUMNS": "120"}
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=root, env=environment)
        os.close(theirs)
        try:
            said = b""
            while _BAR not in said:
                try:
                    said += os.read(ours, 1 << 16)
                except OSError:  # so a terminal says that nobody writes to it any more
                    raise SkimError(f"{root}: the build ended before its first bar: {said[-2000:].decode()}") from None
            wall = time.perf_counter() - started
            fields = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
            return {"wall": wall, "processor": sum(map(int, fields[11:13])) / _TICKS}
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            os.close(ours)


if __name__ == "__main__":
    main_of(parser, run)
