"""Reads and writes manifest.json: under a seal, of the right schema, and refused with what to do otherwise."""

from __future__ import annotations

import json
import re
import shlex
from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError

from engines.errors import InputError, validation_problems
from engines.limits import MANIFEST_BYTES
from engines.manifest import MANIFEST_NAME, SCHEMA_VERSION, Manifest

_SEAL, _BLANK = re.compile(rb'^{\s*"seal": "([0-9a-f]{64})"'), "0" * 64
"""What manifest.json begins with: the SHA-256 of the file with zeros in the place of this number."""
DAMAGED = "the artifact is damaged: copy it again, or build it again with --force"


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes manifest.json, the last file of a build, under its seal."""
    (directory / MANIFEST_NAME).write_bytes(sealed(manifest.model_dump(mode="json")))


def sealed(content: dict[str, object]) -> bytes:
    """The bytes of a manifest.json with that content, under a new seal."""
    whole = {"seal": _BLANK, **{name: value for name, value in content.items() if name != "seal"}}
    blank = json.dumps(whole, indent=1).encode() + b"\n"
    return blank.replace(_BLANK.encode(), sha256(blank).hexdigest().encode(), 1)


def _seal_of(text: bytes) -> str | None:
    """The seal that a manifest should have; None where it has none in its place. Older artifacts are not sealed."""
    found = _SEAL.match(text)
    if found is None:
        return None
    return sha256(text[: found.start(1)] + _BLANK.encode() + text[found.end(1) :]).hexdigest()


def read_manifest(directory: Path, verify: bool) -> Manifest:
    """The manifest of an artifact; verify: also compares its seal. Raises InputError with all problems."""
    path = directory / MANIFEST_NAME
    try:
        if not directory.is_dir():
            raise InputError(f"artifact {directory}: expected a directory that pipeline.build wrote, found none")
        if path.is_symlink() or not path.is_file():
            found = "a symbolic link" if path.is_symlink() else "none"
            raise InputError(
                f"artifact {directory}: expected a file {MANIFEST_NAME}, found {found}; build the artifact again"
            )
        if (size := path.stat().st_size) > MANIFEST_BYTES:
            raise InputError(f"{path}: expected at most {MANIFEST_BYTES} bytes, found {size}; not a manifest of SkimRT")
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: expected JSON, found {error}; the file is damaged, build the artifact again"
        ) from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(
            f"{path}: expected schema_version {SCHEMA_VERSION}, found {version!r}; not a manifest of SkimRT"
        )
    if version < SCHEMA_VERSION:
        raise InputError(
            f"{path}: made by an older version of SkimRT: schema {version}, this one reads {SCHEMA_VERSION}; build the "
            f"artifact again: {_rebuilding(directory, content)}"
        )
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: made by a newer version of SkimRT: schema {version}, this one reads up to "
            f"{SCHEMA_VERSION}; update skimrt or build the artifact again"
        )
    seal, expected = content.pop("seal", None), _seal_of(text)
    if verify and seal != expected:
        found = "a file that was written as another one" if expected else "no seal in front"
        raise InputError(f"{path}: expected the seal that was written with it, found {found}; {DAMAGED}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise InputError.listing(str(path), validation_problems(error)) from None


def _rebuilding(directory: Path, content: dict) -> str:
    """The command that rebuilds an artifact of an older schema."""
    arguments = content.get("build_arguments")
    given = [argument for argument in arguments if isinstance(argument, str)] if isinstance(arguments, list) else []
    if "--out" not in given:
        given += ["--out", str(directory)]
    # Flags of the time when every bucket was an engine.
    renamed = ["--max-profiles" if argument == "--max-engines" else argument for argument in given]
    if "--plan" in renamed:
        index = renamed.index("--plan")
        del renamed[index : index + 2]
    return shlex.join(["python", "-m", "pipeline.build", *renamed, "--force"])
