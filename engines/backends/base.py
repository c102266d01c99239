"""What a backend is: it compiles a stage graph, for all its buckets at once, and loads what it compiled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from engines.binding import Binding, Compatibility
from engines.buckets import Bucket
from engines.errors import InputError
from engines.files import content_of
from engines.plan import Unit, profile_stem, unit_name

if TYPE_CHECKING:
    from engines.backends.device import Device
    from engines.backends.external_weights import Read
    from engines.backends.layers import Layer

Arrays = Mapping[str, np.ndarray]
Report = Callable[[str, float], None]
"""Takes the phase that a compilation is in and the share of it that is done, 0 to 1."""


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is compiled; a backend refuses what it has no use for (`refuse_unused`).

    plugin:               TokenCompact is the plugin library's; otherwise it is the function body in the graph.
    compute_capabilities: GPUs to compile for ahead of time, such as 8.9; () for the backend's default.
    optimization_level:   0 to 5, from a quick build to a thorough search; None for the library's default.
    workspace:            MiB of scratch memory that a layer may use at most; None for all there is.
    compatibility:        other GPUs that the engine must run on.
    """

    plugin: bool = False
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    workspace: int | None = None
    compatibility: Compatibility = "none"


PLAIN = EngineOptions()


def program_file(stage_graph: Path) -> Path:
    """The exported program of PyTorch beside a stage graph, for backends that compile that."""
    return stage_graph.with_suffix(".pt2")


@dataclass(frozen=True)
class Built:
    """What compiling one engine took: wall-clock seconds, bytes of memory at its peak, and the layers of every profile.

    None and {} where a backend does not tell.
    """

    seconds: float | None = None
    peak_bytes: int | None = None
    layers: Mapping[Bucket, tuple[Layer, ...]] = field(default_factory=dict)


class Profile(ABC):
    """A bucket of a loaded engine. Not thread safe: its buffers are its own, one call at a time.

    inputs: the input buffers by name. Write into them, then `run`; nothing is copied on the way.
    """

    inputs: dict[str, np.ndarray]

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every input by name."""
        return {name: array.shape for name, array in self.inputs.items()}

    @abstractmethod
    def run(self) -> Arrays:
        """Runs on what `inputs` hold. The arrays returned are the engine's own, valid until its next run."""

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Copies arrays of exactly the static shapes in, runs, and returns copies of the outputs."""
        for name, buffer in self.inputs.items():
            found = list(inputs[name].shape) if name in inputs else "none"
            if found != list(buffer.shape):
                raise InputError(f"input {name!r}: expected {list(buffer.shape)}, found {found}")
            buffer[...] = inputs[name]
        return {name: value.copy() for name, value in self.run().items()}


class Engine(ABC):
    """One loaded engine: the weights of a stage in a precision, once, and a profile for every bucket.

    Not thread safe, nor are two of its profiles: one call at a time.
    """

    @abstractmethod
    def profile(self, bucket: Bucket) -> Profile:
        """A profile, made when it is first asked for. Raises InputError where the engine has none for the bucket."""

    def prepare(self, buckets: Iterable[Bucket]) -> None:
        """Makes these profiles now, and runs each once: a first call allocates its memory."""
        for bucket in buckets:
            self.profile(bucket).run()


class Backend(ABC):
    """Compiles and runs engines of one target through one provider (a library).

    Providers of one target read the same engine files.

    isolated:              an engine is compiled in a process of its own, several at a time where memory allows.
    needs_device_to_build: compiling times kernels on the GPU, which one engine at a time must have for itself.
    plugin_by_default:     TokenCompact is the plugin library's unless --no-plugin; None: it never is.
    machine_bound:         engines run only where their binding says, so an artifact may hold them for several machines.
    options:               the fields of EngineOptions that change what is compiled.
    most_profiles:         that an engine may have; None: any number.
    suffix:                of an engine's file.
    reads_program:         compiles the program beside a stage graph (`program_file`), not the graph itself.
    on_cpu:                engines run on the CPU.
    has_kit:               a machine without the target can export all that one with it needs to compile.
    """

    target: ClassVar[str]
    provider: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    isolated: ClassVar[bool] = False
    needs_device_to_build: ClassVar[bool] = False
    plugin_by_default: ClassVar[bool | None] = None
    machine_bound: ClassVar[bool] = False
    options: ClassVar[frozenset[str]] = frozenset()
    most_profiles: ClassVar[int | None] = None
    suffix: ClassVar[str] = ".onnx"
    reads_program: ClassVar[bool] = False
    on_cpu: ClassVar[bool] = False
    has_kit: ClassVar[bool] = False

    @abstractmethod
    def available(self) -> str | None:
        """None where this machine can run it, else why not: the package or driver that is missing."""

    def unfit(self, precision: str) -> str | None:
        """Why engines in a precision would give wrong numbers on this machine, and what to do; None: they do not."""
        return None

    def missing_to_build(self) -> str | None:
        """None where this machine can compile for it, else why not."""
        return self.available()

    @abstractmethod
    def build(
        self,
        stage_graph: Path,
        buckets: Sequence[Bucket],
        out: Path,
        options: EngineOptions = PLAIN,
        report: Report | None = None,
    ) -> Built:
        """Compiles a stage graph (symbolic batch and length) into `out`, with a profile for each of the buckets.

        Large weights may come to lie in a file beside it (`weights_file`).

        Raises InputError for a graph that it cannot read, BuildError for one that it cannot compile. What `report`
        raises ends the compilation.
        """

    @abstractmethod
    def load(
        self, engine_file: Path, threads: int | None, binding: Binding | None = None, read: Read = content_of
    ) -> Engine:
        """Loads an engine from what `read` gives of its file and of those that it names; libraries read no file.

        threads: None leaves the number to the provider. read: `Artifact.content` for files that were checked.
        Raises InputError for a file that is no such engine, and TargetError, before anything is deserialised, for an
        engine whose binding does not fit this machine.
        """

    def binding(self, options: EngineOptions) -> Binding | None:
        """What engines compiled here with these options are bound to; None: they run on any machine."""
        return None

    def mismatch(self, binding: Binding) -> str | None:
        """Why an engine so bound cannot run on this machine, or None."""
        return None

    def is_for(self, binding: Binding) -> bool:
        """Whether an engine so bound is for this provider, on whatever machine; two may share a target."""
        return True

    def cannot_run(self, options: EngineOptions) -> str | None:
        """Why this machine cannot run the engines that are compiled here with these options, or None.

        Raises TargetError without the plugin library that is asked for.
        """
        reason = self.available()
        if reason is not None:
            return reason
        binding = self.binding(options)
        return None if binding is None else self.mismatch(binding)

    def options_here(self) -> EngineOptions:
        """The options of engines that this machine is to run, as far as the target has any for it."""
        return PLAIN

    def device(self) -> Device | None:
        """The GPU that the engines' buffers lie on; None for engines on host arrays. Raises TargetError without one."""
        return None

    def refuse_unused(self, options: EngineOptions) -> list[str]:
        """The options that are given but mean nothing to this backend, one line each."""
        return [
            f"{name.replace('_', ' ')}: the target {self.target} has no such option"
            for name, plain in vars(PLAIN).items()
            if getattr(options, name) != plain and name not in self.options
        ]

    def engine_name(self, unit: Unit, bucket: Bucket | None = None) -> str:
        """File name of an engine: stage_0.onnx, or stage_0_b8_s128.onnx where it runs this bucket alone."""
        return (unit_name(unit) if bucket is None else profile_stem(unit, bucket)) + self.suffix
