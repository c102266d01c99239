"""Keeps the pieces that came with a call, and installs every archive that is whole by now. Standard library only.

python3 -m benchmarks.gpu.unpack [--root FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = ".gpu"
"""In the project's root: a folder of pieces for every call."""
INDEX = "archives.json"
"""Beside the pieces: size and digest of every archive."""
DEFAULT = Path(tempfile.gettempdir()) / "skimrt-gpu"
"""Where pieces are kept and wheels are installed on the GPU machine."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python3 -m benchmarks.gpu.unpack", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--root", type=Path, default=DEFAULT, help=f"where all is kept (default {DEFAULT})")
    return p


def run(args: argparse.Namespace) -> int:
    """Unpacks; prints a line for every archive."""
    for line in unpack(Path(FOLDER), args.root):
        print(line)
    return 0


def unpack(carried: Path, root: Path) -> list[str]:
    """Takes the pieces in, installs what is whole into root/site, and says of every archive how far it is.

    Pieces may come in any order and several times. A machine that was given back has lost its pieces: carry all again.
    """
    kept = root / "pieces"
    kept.mkdir(parents=True, exist_ok=True)
    for file in sorted(carried.glob("[0-9]*/*")):
        shutil.copyfile(file, kept / file.name)
    if not (kept / INDEX).is_file():
        return [f"  nothing has arrived in {carried}/"]
    index = json.loads((kept / INDEX).read_bytes())
    return [f"  {name}: {_bring(name, wanted, root)}" for name, wanted in index.items()]


def _bring(name: str, wanted: dict, root: Path) -> str:
    installed = root / f"{name}.installed"
    if installed.is_file() and installed.read_text("utf-8") == wanted["sha256"]:
        return "installed"
    pieces = sorted((root / "pieces").glob(f"{name}.[0-9]*"))
    size = sum(piece.stat().st_size for piece in pieces)
    if size < wanted["bytes"]:
        return f"{size} of {wanted['bytes']} bytes are here, the rest comes with another call"
    archive, digest = root / f"{name}.tar", hashlib.sha256()
    with archive.open("wb") as file:
        for piece in pieces:
            content = piece.read_bytes()
            digest.update(content)
            file.write(content)
    if digest.hexdigest() != wanted["sha256"]:
        return f"damaged: expected SHA-256 {wanted['sha256'][:12]}…, found {digest.hexdigest()[:12]}…; carry it again"
    problem = _install(archive, root / "wheels" / name, root / "site")
    archive.unlink()
    if problem:
        return f"pip cannot install it: {problem}"
    installed.write_text(wanted["sha256"], "utf-8")
    return "installed now"


def _install(archive: Path, wheels: Path, site: Path) -> str | None:
    """Installs the wheels of an archive into `site`. Returns the last line of pip's error, None if there is none."""
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir(parents=True)
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            content = packed.extractfile(member)
            if content is not None:
                (wheels / Path(member.name).name).write_bytes(content.read())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-compile", "--no-cache-dir", "--upgrade", "--target", str(site)]
    done = subprocess.run([*command, *map(str, sorted(wheels.glob("*.whl")))], capture_output=True, text=True)
    shutil.rmtree(wheels)
    return (done.stderr.strip().splitlines() or ["no reason"])[-1] if done.returncode else None


if __name__ == "__main__":
    sys.exit(run(parser().parse_args()))
