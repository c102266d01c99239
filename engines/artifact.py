"""The artifact: what a build writes, described by manifest.json and checked before anything is loaded."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Collection, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engines.binding import Binding
from engines.buckets import Bucket
from engines.errors import InputError, validation_problems
from engines.files import Digest, checked_content, digest_tree, open_inside, sha256_of, wrong_digest
from engines.head import Head
from engines.limits import ENGINES, FILES, GATES, MANIFEST_BYTES, Layers, Length, Vocabulary, Width
from engines.plan import Plan, Positive, RelativePath, Unit, repeated
from engines.precisions import ComparedPrecision

SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer/tokenizer.json"
PARITY_NAME = "parity.json"
BENCH_NAME = "bench.json"

_SEAL, _BLANK = re.compile(rb'^{\s*"seal": "([0-9a-f]{64})"'), "0" * 64
"""What manifest.json begins with: the SHA-256 of the file with zeros in the place of this number."""
_DAMAGED = "the artifact is damaged: copy it again, or build it again with --force"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Encoder(_Strict):
    """The encoder's sizes, as far as a runner and a reader need them."""

    family: str
    hidden_size: Width
    layers: Layers
    heads: Width
    vocab_size: Vocabulary
    type_vocab_size: Positive
    pad_token_id: Annotated[int, Field(ge=0)]


class Checkpoint(_Strict):
    """Where the model came from."""

    path: str
    sha256: Digest


class Data(_Strict):
    """The examples that the gates used."""

    name: str
    count: Positive
    sha256: Digest


class EngineRecord(_Strict):
    """One compiled (stage, precision) for one target.

    profiles: the buckets that it runs.
    weights:  the file that holds its large weights, where its own does not.
    key:      SHA-256 of all that the engine depends on; the same key, the same engine.
    binding:  the machines that can run it; None: any.
    report:   JSON file with what compiling it took and the layers that it came to, where the library tells.
    """

    stage: Unit
    profiles: tuple[Bucket, ...] = Field(min_length=1)
    target: str
    precision: str
    file: RelativePath
    weights: RelativePath | None = None
    key: Digest | None = None
    binding: Binding | None = None
    report: RelativePath | None = None

    @property
    def place(self) -> str:
        """Name of the machines that can run it; empty for any."""
        return "" if self.binding is None else self.binding.place

    @property
    def files(self) -> list[str]:
        """All that belongs to it, its own file first."""
        return [name for name in (self.file, self.weights, self.report) if name is not None]


Figures = dict[str, float | int | str]
"""What a gate has measured, by name."""


class Gate(_Strict):
    """What a gate of the build found. SKIPPED is a check that could not be made, and says why."""

    name: str
    status: Literal["PASSED", "FAILED", "SKIPPED"]
    reason: str = ""
    figures: Figures = {}


class Manifest(_Strict):
    """The whole of manifest.json.

    build_key:       what the artifact depends on, but for the machine that compiles its engines.
    build_arguments: of pipeline.build, with which another machine adds its engines to the artifact.
    engines:         empty in an artifact that was only exported.
    compared:        the precisions that it was chosen from; empty where one was asked for.
    """

    schema_version: Literal[2] = 2
    skimrt_version: str
    created: str
    build_key: Digest
    method: str
    head: Head
    max_length: Length
    encoder: Encoder
    protect_first: bool
    protect_until: int | None = None
    checkpoint: Checkpoint
    data: Data | None = None
    plan: Plan
    engines: list[EngineRecord] = Field([], max_length=ENGINES)
    build_arguments: list[str] = []
    tools: dict[str, str] = {}
    machine: dict[str, str] = {}
    files: dict[RelativePath, Digest] = Field(max_length=FILES)
    gates: list[Gate] = Field([], max_length=GATES)
    compared: list[ComparedPrecision] = []

    @property
    def built(self) -> dict[str, set[str]]:
        """The targets that there are engines for, and their precisions."""
        found: dict[str, set[str]] = {}
        for engine in self.engines:
            found.setdefault(engine.target, set()).add(engine.precision)
        return found

    @property
    def bindings(self) -> list[tuple[str, Binding]]:
        """The targets of the engines that are bound to machines, and to what."""
        found = [(engine.target, engine.binding) for engine in self.engines if engine.binding is not None]
        return list(dict.fromkeys(found))

    @property
    def failed(self) -> list[str]:
        """The gates that failed. A build that has any is not published."""
        return [gate.name for gate in self.gates if gate.status == "FAILED"]

    @model_validator(mode="after")
    def _parts_fit(self) -> Manifest:
        plan, problems = self.plan, self.plan.problems(self.max_length)
        if (plan.head_graph is not None) != self.head.token_level:
            problems.append(
                f"plan.head_graph: a {self.head.kind} head has {'one' if self.head.token_level else 'none'}"
            )
        unknown = {str(e.stage) for e in self.engines if e.stage not in plan.units}
        problems += [f"engines: stage {s} is not in the plan" for s in sorted(unknown)]
        for target, place in sorted({(e.target, e.place) for e in self.engines}):
            here = [e for e in self.engines if (e.target, e.place) == (target, place)]
            # Also in two precisions: a bucket is run in one of them.
            profiles = [(engine.stage, bucket) for engine in here for bucket in engine.profiles]
            missing = [(u, b) for u in plan.units for b in plan.buckets_of(u) if (u, b) not in profiles]
            name = " ".join((target, place)).strip()
            problems += [f"engines: {name} has stage {unit} {bucket} twice" for unit, bucket in repeated(profiles)]
            problems += [f"engines: {name} lacks stage {unit} {bucket}" for unit, bucket in missing]
        named = [*plan.graphs.values(), *(name for e in self.engines for name in e.files), TOKENIZER_NAME]
        problems += [f"files: {name} is used but has no digest" for name in sorted(set(named) - set(self.files))]
        if problems:
            raise ValueError("; ".join(problems))
        return self


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
        return cls(directory, _read_manifest(directory, verify))

    def check(self, used: Iterable[str]) -> None:
        """Raises InputError with all problems unless every file is there, and those that are used are as they were
        built."""
        problems = _file_problems(self.path, self.manifest.files, set(used))
        if problems:
            raise InputError.listing(f"artifact {self.path}", problems, _DAMAGED)

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


def digest_files(directory: Path) -> dict[str, str]:
    """What `Manifest.files` is filled with: path to SHA-256 of every file but the manifest itself."""
    return digest_tree(directory, leave_out=(MANIFEST_NAME,))


def _read_manifest(directory: Path, verify: bool) -> Manifest:
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
        raise InputError(f"{path}: expected the seal that was written with it, found {found}; {_DAMAGED}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise InputError.listing(str(path), validation_problems(error)) from None


def _rebuilding(directory: Path, content: dict) -> str:
    """The command that builds an artifact of an older schema anew."""
    arguments = content.get("build_arguments")
    given = [argument for argument in arguments if isinstance(argument, str)] if isinstance(arguments, list) else []
    if "--out" not in given:
        given += ["--out", str(directory)]
    # Flags of the time when every bucket was an engine.
    renamed = ["--max-profiles" if argument == "--max-engines" else argument for argument in given]
    if "--plan" in renamed:
        place = renamed.index("--plan")
        del renamed[place : place + 2]
    return shlex.join(["python", "-m", "pipeline.build", *renamed, "--force"])


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
