"""The artifact: what a build writes, described by manifest.json and checked before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from engines.errors import InputError
from engines.files import checked_content, digest_tree, open_inside, sha256_of, wrong_digest
from engines.manifest import MANIFEST_NAME, Manifest
from engines.manifest_file import DAMAGED, read_manifest


class Artifact:
    """An artifact whose manifest is valid and, when verified, whose files are those that were built."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> Artifact:
        """Reads and checks an artifact; only JSON is deserialised. Raises InputError with all problems.

        verify: also compare the seal of the manifest and the SHA-256 of every file; otherwise they must only exist.
        """
        artifact = cls.read(path, verify)
        artifact.check(artifact.manifest.files if verify else ())
        return artifact

    @classmethod
    def read(cls, path: str | Path, verify: bool = True) -> Artifact:
        """Reads the manifest alone; `check` is still to come."""
        directory = Path(path)
        return cls(directory, read_manifest(directory, verify))

    def check(self, used: Iterable[str]) -> None:
        """Raises InputError with all problems unless every file is there, and those that are used are as they were
        built."""
        problems = _file_problems(self.path, self.manifest.files, set(used))
        if problems:
            raise InputError.listing(f"artifact {self.path}", problems, DAMAGED)

    def file(self, relative: str) -> Path:
        """The path of a file that the manifest lists, for who asks the file system about it. Raises InputError."""
        if relative not in self.manifest.files:
            raise InputError(f"artifact {self.path}: {relative} is not listed in {MANIFEST_NAME}; it is never read")
        return self.path / relative

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file that the manifest lists, by its relative name."""
        return {name: self.file(name).stat().st_size for name in self.manifest.files}

    def content(self, file: str | Path) -> np.ndarray:
        """The bytes of a file that the manifest lists, by its relative name or its path: those that were built.

        However the file changes, they stay what they are. Raises InputError where it is not that file any more.
        """
        relative = file if isinstance(file, str) else file.relative_to(self.path).as_posix()
        self.file(relative)
        try:
            return checked_content(self.path, relative, self.manifest.files[relative])
        except OSError as error:
            problem = error.strerror or str(error)
        except InputError as error:
            problem = str(error)
        raise InputError(
            f"artifact {self.path}: {relative}: {problem}; "
            "it was replaced, or changed, since it was opened; open it again"
        )


def digest_files(directory: Path) -> dict[str, str]:
    """What `Manifest.files` is filled with: path to SHA-256 of every file but the manifest itself."""
    return digest_tree(directory, leave_out=(MANIFEST_NAME,))


def _file_problems(directory: Path, files: dict[str, str], used: Collection[str]) -> list[str]:
    problems = []
    for relative, expected in sorted(files.items()):
        try:
            handle = open_inside(directory, relative)
            with os.fdopen(handle, "rb", buffering=0) as file:
                found = sha256_of(file) if relative in used else expected
        except FileNotFoundError:
            problems.append(f"{relative}: missing")
        except OSError as error:
            problems.append(f"{relative}: cannot be read: {error.strerror}")
        except InputError as error:
            problems.append(f"{relative}: {error}")
        else:
            if found != expected:
                problems.append(f"{relative}: {wrong_digest(expected, found)}")
    return problems
