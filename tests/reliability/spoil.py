"""Ways to spoil bytes, whatever they mean."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

_INSERTED = (
    *(b'"', b"\x00", b"\r", b"\n\n", b"\xff", b"\t", b",", b"{", b"}", b"'", b"\x1a", b"\xef\xbb\xbf", b"\xe2\x80\xa8"),
    *(
        b"[" * 5000,
        b'{"a":' * 5000,
        b"9" * 5000,
        b"-",
        b"NaN",
        b"1e999",
        b"\\ud800",
        b"\x1b[31m",
        b"null",
        b"\xed\xa0\x80",
    ),
)


def spoiled(content: bytes, generator: random.Random) -> tuple[bytes, str]:
    """Other bytes, and what was done to them."""
    size = len(content)
    start, end = sorted((generator.randrange(size + 1), min(size, generator.randrange(size + 1))))
    way = generator.choice(["cut", "bits", "insert", "insert", "repeat", "delete", "utf-16", "line ends", "latin-1"])
    if way == "cut":
        return content[:start], f"cut to {start} bytes"
    if way == "bits":
        changed = bytearray(content)
        for _ in range(generator.choice([1, 1, 3, 20]) if size else 0):
            changed[generator.randrange(size)] ^= 1 << generator.randrange(8)
        return bytes(changed), "bits flipped"
    if way == "insert":
        piece = generator.choice(_INSERTED)
        return content[:start] + piece + content[start:], f"{piece[:8]!r} ({len(piece)} bytes) at {start}"
    if way == "repeat":
        return content[:end] + content[start:], f"bytes {start} to {end} twice"
    if way == "delete":
        return content[:start] + content[end:], f"bytes {start} to {end} deleted"
    if way == "line ends":
        return content.replace(b"\n", generator.choice([b"\r", b"\r\n", b"\n\r", b"\n\n"])), "other line ends"
    text = content.decode("latin-1")
    return text.replace("e", "é").encode("latin-1" if way == "latin-1" else "utf-16"), f"in {way}"


def displace(path: Path, generator: random.Random) -> str:
    """Puts something in the place of a file that is none; says what."""
    way = generator.choice(
        ["nothing", "an empty file", "a directory", "a pipe", "a link to itself", "a link to nothing"]
    )
    path.unlink()
    if way == "an empty file":
        path.touch()
    elif way == "a directory":
        path.mkdir()
    elif way == "a pipe":
        os.mkfifo(path)
    elif way != "nothing":
        path.symlink_to(path.name if way.endswith("itself") else "nowhere")
    return f"{path.name}: {way}"


def clear(path: Path) -> None:
    """Removes whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
