"""The state of a build, and what its steps pass to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from calib.int8.calibrate import Calibration
from engines.buckets import Bucket
from engines.manifest import EngineRecord, Gate
from engines.plan import Unit
from pipeline.builder.compilation import Compilation, Compiled
from pipeline.builder.config import BuildConfig
from pipeline.builder.publish import Publisher
from pipeline.builder.reuse import Previous
from pipeline.builder.start import Start
from pipeline.builder.target import BuildTarget
from pipeline.gates.expected import Expected
from pipeline.graph.export import Export
from pipeline.planning.plan import ChosenPlan


@dataclass(frozen=True)
class Work:
    """What every step of a build uses: its inputs, its output folder, the previous artifact.

    export: writes the graphs of stages.
    """

    start: Start
    publisher: Publisher
    previous: Previous
    progress: Progress
    export: Export

    @property
    def config(self) -> BuildConfig:
        """The configuration."""
        return self.start.config

    @property
    def root(self) -> Path:
        """The folder of the artifact until it is published."""
        return self.publisher.path


@dataclass(frozen=True)
class Planned:
    """The plan of a build.

    expected:    what the artifact is compared with. gate: whether PyTorch's two executions agree.
    buckets:     of every unit. calibration: in INT8, what it quantises.
    elsewhere:   engines of other machines that stay in the artifact.
    """

    expected: Expected
    gate: Gate
    plan: ChosenPlan
    buckets: Mapping[Unit, Sequence[Bucket]]
    calibration: Calibration | None
    elsewhere: list[EngineRecord]


@dataclass(frozen=True)
class Exported:
    """The graph of every unit, the quantised ones separately, and the target that compiles them."""

    graphs: Mapping[Unit, str]
    int8: Mapping[Unit, str]
    target: BuildTarget


@dataclass(frozen=True)
class Engines:
    """The engines that were compiled.

    target:      what compiled them. compilation: their record, in the target's own precision.
    calibration: in INT8, with the engines that use it. elsewhere: engines of other machines that are whole.
    left_out:    a gate that names the buckets which could not be built; empty without any.
    """

    target: BuildTarget
    compilation: Compilation
    compiled: Compiled
    calibration: Calibration | None
    elsewhere: list[EngineRecord]
    left_out: list[Gate]

    @property
    def records(self) -> list[EngineRecord]:
        """All engines of the artifact."""
        return [*self.elsewhere, *self.compiled.records]
