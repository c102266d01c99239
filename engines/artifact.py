"""The artifact: what a build writes, described by manifest.json and checked before anything is loaded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engines.binding import Binding
from engines.buckets import Bucket
from engines.errors import InputError, validation_problems
from engines.files import Digest, digest_tree, sha256
from engines.head import Head
from engines.plan import Plan, Positive, RelativePath, Unit, repeated

SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer/tokenizer.json"
PARITY_NAME = "parity.json"
BENCH_NAME = "bench.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Encoder(_Strict):
    """The encoder's sizes, as far as a runner and a reader need them."""

    family: str
    hidden_size: Positive
    layers: Positive
    heads: Positive
    vocab_size: Positive
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
    """

    schema_version: Literal[2] = 2
    skimrt_version: str
    created: str
    build_key: Digest
    method: str
    head: Head
    max_length: Positive
    encoder: Encoder
    protect_first: bool
    checkpoint: Checkpoint
    data: Data | None = None
    plan: Plan
    engines: list[EngineRecord] = []
    build_arguments: list[str] = []
    tools: dict[str, str] = {}
    machine: dict[str, str] = {}
    files: dict[RelativePath, Digest]
    gates: list[Gate] = []

    @property
    def built(self) -> dict[str, set[str]]:
        """The targets that there are engines for, and their precisions."""
        found: dict[str, set[str]] = {}
        for engine in self.engines:
            found.setdefault(engine.target, set()).add(engine.precision)
        return found

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

    def __init__(self, path: Path, manifest: Manifest, stamp: tuple[int, ...]) -> None:
        self.path, self.manifest, self._stamp = path, manifest, stamp

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> Artifact:
        """Reads and checks an artifact; only JSON is deserialised. Raises InputError with all problems.

        verify: also compare the SHA-256 of every file with the manifest; otherwise they must only exist.
        """
        artifact = cls.read(path)
        artifact.check(artifact.manifest.files if verify else ())
        return artifact

    @classmethod
    def read(cls, path: str | Path) -> Artifact:
        """Reads the manifest alone; `check` is still to come."""
        directory = Path(path)
        stamp = _stamp(directory)
        return cls(directory, _read_manifest(directory), stamp)

    def check(self, used: Iterable[str]) -> None:
        """Raises InputError with all problems unless every file is there, and those that are used are as they were
        built."""
        problems = _file_problems(self.path, self.manifest.files, set(used))
        if problems:
            raise InputError.listing(
                f"artifact {self.path}",
                [*problems, "the artifact is damaged: copy it again, or build it again with --force"],
            )

    def check_same(self) -> None:
        """Raises InputError when another artifact has taken the place of this one: their files do not fit together."""
        if _stamp(self.path) != self._stamp:
            raise InputError(f"artifact {self.path}: it was replaced, or changed, since it was opened; open it again")

    def file(self, relative: str) -> Path:
        """The path of a file that the manifest lists. Raises InputError, also when the artifact was replaced."""
        self.check_same()
        if relative not in self.manifest.files:
            raise InputError(f"artifact {self.path}: {relative} is not listed in {MANIFEST_NAME}; it is never read")
        return self.path / relative


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes manifest.json, the last file of a build."""
    (directory / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")


def digest_files(directory: Path) -> dict[str, str]:
    """What `Manifest.files` is filled with: path to SHA-256 of every file but the manifest itself."""
    return digest_tree(directory, leave_out=(MANIFEST_NAME,))


def _stamp(directory: Path) -> tuple[int, ...]:
    """What tells the manifest from another one that comes to lie in its place; () where there is none."""
    try:
        state = (directory / MANIFEST_NAME).stat()
    except OSError:
        return ()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _read_manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST_NAME
    try:
        if not directory.is_dir():
            raise InputError(f"artifact {directory}: expected a directory that pipeline.build wrote, found none")
        if path.is_symlink() or not path.is_file():
            found = "a symbolic link" if path.is_symlink() else "none"
            raise InputError(
                f"artifact {directory}: expected a file {MANIFEST_NAME}, found {found}; build the artifact again"
            )
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
    root = directory.resolve()
    for relative, expected in sorted(files.items()):
        try:
            problem = _file_problem(directory / relative, root / relative, expected if relative in used else None)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        if problem is not None:
            problems.append(f"{relative}: {problem}")
    return problems


def _file_problem(path: Path, real: Path, expected: str | None) -> str | None:
    """What is wrong with a file that is to be at the path `real`, with the digest `expected` unless that is None."""
    if not path.exists() and not path.is_symlink():
        return "missing"
    if path.is_symlink() or not path.is_file() or path.resolve() != real:
        return "expected a regular file inside the artifact, found a link or a directory"
    if expected is None or (found := sha256(path)) == expected:
        return None
    return f"expected SHA-256 {expected[:12]}…, found {found[:12]}…: not the built file"
