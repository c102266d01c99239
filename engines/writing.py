"""Writing files: whole or not at all, one process at a time, never through a link, with the user's umask.

Everything that is kept is written here: by a name that nobody can guess, flushed to the disk, and renamed.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from filelock import FileLock, Timeout

from engines.errors import InputError

_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial")
_LONGEST_NAME = 255
"""Bytes of a file's name on every common file system."""


def write_whole(path: Path, content: bytes | bytearray) -> None:
    """Writes a file, and its directory if need be. Raises OSError, and then has left what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` when the block ends; if it raises, nothing has happened."""
    with whole_path(path) as fresh, fresh.open("r+b") as file:
        yield file


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """The same for a library that writes by name: the name of an empty file to write to, or to replace.

    A link at `path` is replaced itself; what it points to is left alone. A file keeps its permissions.
    """
    fresh, mode = _new_file(path.parent)
    try:
        with suppress(FileNotFoundError):
            there = path.lstat()
            mode = stat.S_IMODE(there.st_mode) if stat.S_ISREG(there.st_mode) else mode
        yield fresh
        sync(fresh)
        os.chmod(fresh, mode)  # libraries make files that only their owner may read
        os.replace(fresh, path)
        sync(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


def share_as_new(path: Path) -> None:
    """Gives a file that a library has made for its owner alone the permissions of any new file."""
    probe, mode = _new_file(path.parent)
    probe.unlink()
    path.chmod(mode)


def _new_file(directory: Path) -> tuple[Path, int]:
    """A new file, and its permissions, which are those that the user's umask leaves."""
    path = directory / f".{token_hex(16)}.partial"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        return path, stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """What a user names to be written: a whole file that no other process writes meanwhile; what a link points to.

    A pipe or a device, which has no content to keep, is written to as it is. Raises InputError where another process
    is writing it, OSError.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()
    with locked(path, str(path)), whole_file(path) as file:
        yield file


@contextmanager
def locked(path: Path, subject: str, timeout: float = 0.0, writer: str = "process") -> Iterator[None]:
    """Holds the lock of a file or directory against other processes; it goes with a process that dies.

    subject: what an error calls it; writer: and who holds it. timeout: seconds to wait. Raises InputError, OSError.
    """
    if not path.parent.is_dir():  # which the lock would make
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    lock = FileLock(sibling(path, "lock"))
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        waited = f" (waited {timeout:g} s for its lock)" if timeout else ""
        raise InputError(
            f"{subject}: another {writer} is writing it{waited}; let it finish or choose another name"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):
            # While it is held: whoever has opened it by now finds that it is gone, and makes a new one.
            if Path(lock.lock_file).lstat().st_size == 0:  # which nobody has written into
                os.unlink(lock.lock_file)
        lock.release()


def sibling(path: Path, kind: str) -> Path:
    """The hidden name beside `path` for what belongs to it while it is written."""
    name = f".{path.name}.{kind}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{sha256(os.fsencode(path.name)).hexdigest()}.{kind}"
    return path.with_name(name)


def remove_partials(directory: Path) -> None:
    """Deletes what killed writers have left below a directory, which nobody else may be writing into."""
    for path in list(directory.rglob(".*.partial")):
        if is_partial(path):
            path.unlink()


def is_partial(path: Path) -> bool:
    """Whether it is a file that a killed writer has left."""
    return _PARTIAL.fullmatch(path.name) is not None and stat.S_ISREG(path.lstat().st_mode)


def sync(path: Path) -> None:
    """Flushes a file or a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
