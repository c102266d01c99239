"""Files that are read once and checked, digests of files, trees and values, and which paths stay inside a directory."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from io import RawIOBase
from pathlib import Path, PurePosixPath
from typing import Annotated
from weakref import WeakValueDictionary

import numpy as np
from pydantic import StringConstraints

from engines.errors import InputError

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal."""

_BLOCK = 1 << 20
_CONTENTS: WeakValueDictionary[object, np.ndarray] = WeakValueDictionary()
_READING = threading.Lock()


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb", buffering=0) as file:
        return sha256_of(file)


def sha256_of(file: RawIOBase) -> str:
    """Hex digest of what is left to read of an open file."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def wrong_digest(expected: str, found: str) -> str:
    """What an error says of a file with another digest."""
    return f"expected SHA-256 {expected[:12]}…, found {found[:12]}…: not the built file"


def content_of(path: Path) -> np.ndarray:
    """The bytes of a file, not to be written to: one array for all who hold them at a time. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not be waited for
    try:
        state = os.fstat(handle)
        return _content(handle, (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns), None)
    finally:
        os.close(handle)


def checked_content(root: Path, relative: str, digest: str) -> np.ndarray:
    """The bytes of a regular file below `root`, which have that digest, however the file changes later; see content_of.

    Raises InputError for other bytes, and where a link, of either kind, leads to the file; OSError.
    """
    with _READING:
        known = _CONTENTS.get(digest)
    if known is not None:
        return known
    handle = open_inside(root, relative)
    try:
        content = _content(handle, digest, digest)
    finally:
        os.close(handle)
    return content


def open_inside(root: Path, relative: str) -> int:
    """A descriptor of a regular file below `root`. Raises InputError for a link, also a hard one, and OSError."""
    *folders, name = PurePosixPath(relative).parts
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = _open_at(directory, folder, os.O_DIRECTORY)
            os.close(directory)
            directory = inner
        handle = _open_at(directory, name, os.O_NONBLOCK)
    finally:
        os.close(directory)
    state = os.fstat(handle)
    if stat.S_ISREG(state.st_mode) and state.st_nlink == 1:
        return handle
    os.close(handle)
    found = f"one of {state.st_nlink} names of a file" if stat.S_ISREG(state.st_mode) else "a directory or a device"
    raise InputError(f"expected a regular file inside the artifact, found {found}; copy the file itself")


def _open_at(directory: int, name: str, flags: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise InputError("expected a regular file inside the artifact, found a link or a directory") from None
        raise


def _content(handle: int, key: object, digest: str | None) -> np.ndarray:
    with _READING:  # by one thread: the others are likely to want the same
        content = _CONTENTS.get(key)
        if content is not None:
            return content
        content = np.empty(os.fstat(handle).st_size, np.uint8)
        with os.fdopen(os.dup(handle), "rb", buffering=0) as file:
            size = 0
            while size < len(content) and (got := file.readinto(content[size:].data)):
                size += got
        if digest is not None and (found := hashlib.sha256(content[:size].data).hexdigest()) != digest:
            raise InputError(wrong_digest(digest, found))
        content = content[:size] if size < len(content) else content
        _CONTENTS[key] = content
        return content


def digest_of(values: Mapping[str, object]) -> str:
    """Hex digest of values that JSON can hold, in whatever order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def digest_tree(directory: Path, leave_out: Sequence[str] = ()) -> dict[str, str]:
    """Relative path (forward slashes) to SHA-256 of every file below `directory`, sorted.

    Raises InputError for anything that is neither a directory nor a regular file: a link could change its
    content without changing the tree.
    """
    digests = {}
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: expected a regular file, found a link or a device; copy the file itself")
        if path.is_file() and relative not in leave_out:
            digests[relative] = sha256(path)
    return digests


def path_problem(relative: str) -> str | None:
    """Why a path is not a plain file name below a directory, or None."""
    try:
        relative.encode()
    except UnicodeEncodeError:
        return "expected a path that is Unicode, found an unpaired surrogate"
    pure = PurePosixPath(relative)
    if pure.is_absolute() or "\\" in relative or ":" in relative or "\0" in relative:
        return "expected a relative path with forward slashes"
    if not pure.parts or ".." in pure.parts or relative != pure.as_posix():
        return "expected a plain path inside the artifact, without . and .."
    return None
