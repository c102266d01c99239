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
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[1] / "build" / "bin" / "token_compact_benchmark"
NO_DEVICE = 77  # exit status of the program
TARGET_MISSING = 4  # exit status of SkimRT's commands for "not on this machine"


def measure() -> list[dict]:
    """One entry a shape, as the program prints them. Exits with 4 when there is no program or no device."""
    if not PROGRAM.is_file():
        print(f"{PROGRAM} is not built: cmake -S . -B build -G Ninja && cmake --build build (needs nvcc)")
        raise SystemExit(TARGET_MISSING)
    result = subprocess.run([str(PROGRAM)], stdout=subprocess.PIPE, text=True)
    if result.returncode == NO_DEVICE:
        print(result.stdout.strip())
        raise SystemExit(TARGET_MISSING)
    if result.returncode != 0:
        raise SystemExit(f"{PROGRAM.name} failed with status {result.returncode}")
    return [json.loads(line) for line in result.stdout.splitlines()]


def table(entries: list[dict]) -> str:
    """The entries as a table for people."""
    lines = [
        f"TokenCompact on {entries[0]['device']}, fp16, 40 % alive",
        "   B     S     C     D   must move    time       kernel        copy   ratio",
    ]
    for entry in entries:
        ratio = entry["gigabytes_per_second"] / entry["copy_gigabytes_per_second"]
        lines.append(
            f"{entry['batch']:4} {entry['length']:5} {entry['capacity']:5} {entry['width']:5} "
            f"{entry['bytes_that_must_move'] / 1e6:8.2f} MB {entry['microseconds']:7.2f} us "
            f"{entry['gigabytes_per_second']:7.0f} GB/s "
            f"{entry['copy_gigabytes_per_second']:6.0f} GB/s {ratio:7.2f}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the entries to FILE")
    arguments = parser.parse_args()
    entries = measure()
    print(table(entries))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
