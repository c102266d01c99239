"""Digests of files, trees and values, and which relative paths stay inside a directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import StringConstraints

from engines.errors import InputError

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal."""

_BLOCK = 1 << 20


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


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
    pure = PurePosixPath(relative)
    if pure.is_absolute() or "\\" in relative or ":" in relative or "\0" in relative:
        return "expected a relative path with forward slashes"
    if not pure.parts or ".." in pure.parts or relative != pure.as_posix():
        return "expected a plain path inside the artifact, without . and .."
    return None
