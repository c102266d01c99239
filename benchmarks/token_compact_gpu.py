"""TokenCompact on this machine's GPU: bytes that must move, time, and how close that comes to a plain copy.

python -m benchmarks.token_compact_gpu [--json FILE]

Needs a CUDA device and the build (cmake --build build). The ratio is the kernel's bandwidth over that of a
copy of the same rows, both cold in the level-2 cache; 1.0 would be a compaction that costs no more than
moving its bytes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_results import Compaction
from engines.errors import SkimError, TargetError
from pipeline.cli import main_of

PROGRAM = Path(__file__).resolve().parents[1] / "build" / "bin" / "token_compact_benchmark"
NO_DEVICE = 77  # exit status of the program


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser("python -m benchmarks.token_compact_gpu", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--json", type=Path, metavar="FILE", help="where the record is written")
    return p


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes the figures. Raises TargetError without the program or a GPU."""
    entries = compaction_costs()
    print(table(entries))
    if args.json is not None:
        args.json.write_text(json.dumps([entry.model_dump() for entry in entries], indent=2) + "\n", "utf-8")
    return 0


def compaction_costs(program: Path = PROGRAM) -> list[Compaction]:
    """Returns one entry per shape. Raises TargetError without the program or a GPU, SkimError if the program fails."""
    if not program.is_file():
        raise TargetError(
            f"{program}: expected the program, found none; cmake -S . -B build && cmake --build build (needs nvcc)"
        )
    done = subprocess.run([str(program)], stdout=subprocess.PIPE, text=True)
    if done.returncode == NO_DEVICE:
        raise TargetError(done.stdout.strip())
    if done.returncode != 0:
        raise SkimError(f"{program.name}: expected exit status 0, found {done.returncode}; what it printed says why")
    return [Compaction.model_validate_json(line) for line in done.stdout.splitlines()]


def table(entries: Sequence[Compaction]) -> str:
    """The entries as a table for people."""
    lines = [
        f"TokenCompact on {entries[0].device}, fp16, 40 % alive",
        "   B     S     C     D   must move    time       kernel        copy   ratio",
    ]
    for entry in entries:
        lines.append(
            f"{entry.batch:4} {entry.length:5} {entry.capacity:5} {entry.width:5} "
            f"{entry.bytes_that_must_move / 1e6:8.2f} MB {entry.microseconds:7.2f} us "
            f"{entry.gigabytes_per_second:7.0f} GB/s {entry.copy_gigabytes_per_second:6.0f} GB/s {entry.ratio:7.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main_of(parser, run)
