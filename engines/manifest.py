"""The schema of manifest.json, which describes an artifact, and the names of its files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engines.binding import Binding
from engines.buckets import Bucket
from engines.files import Digest
from engines.head import Head
from engines.limits import ENGINES, FILES, GATES, Layers, Length, Vocabulary, Width
from engines.plan import Plan, Positive, RelativePath, Unit, repeated
from engines.precisions import ComparedPrecision

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
    def machine(self) -> str:
        """Name of the machines that can run it; empty for any."""
        return "" if self.binding is None else self.binding.machine

    @property
    def files(self) -> list[str]:
        """The files of the engine, the compiled one first."""
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
        """The targets of the engines, and the precisions of each."""
        precisions: dict[str, set[str]] = {}
        for engine in self.engines:
            precisions.setdefault(engine.target, set()).add(engine.precision)
        return precisions

    @property
    def bindings(self) -> list[tuple[str, Binding]]:
        """The targets of the engines that are bound to machines, and to what."""
        bindings = [(engine.target, engine.binding) for engine in self.engines if engine.binding is not None]
        return list(dict.fromkeys(bindings))

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
        for target, machine in sorted({(e.target, e.machine) for e in self.engines}):
            here = [e for e in self.engines if (e.target, e.machine) == (target, machine)]
            # Also in two precisions: a bucket is run in one of them.
            profiles = [(engine.stage, bucket) for engine in here for bucket in engine.profiles]
            missing = [(u, b) for u in plan.units for b in plan.buckets_of(u) if (u, b) not in profiles]
            name = " ".join((target, machine)).strip()
            problems += [f"engines: {name} has stage {unit} {bucket} twice" for unit, bucket in repeated(profiles)]
            problems += [f"engines: {name} lacks stage {unit} {bucket}" for unit, bucket in missing]
        named = [*plan.graphs.values(), *(name for e in self.engines for name in e.files), TOKENIZER_NAME]
        problems += [f"files: {name} is used but has no digest" for name in sorted(set(named) - set(self.files))]
        if problems:
            raise ValueError("; ".join(problems))
        return self
