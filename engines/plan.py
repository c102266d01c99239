"""The plan of an artifact: its stages and what each is compiled for; fused, where the whole model is one engine too."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from engines.buckets import Bucket
from engines.files import path_problem


def _inside(path: str) -> str:
    problem = path_problem(path)
    if problem:
        raise ValueError(problem)
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
"""A file inside the artifact, with forward slashes; never absolute, never upwards."""
Positive = Annotated[int, Field(gt=0)]
Unit = int | Literal["head", "fused"]
"""What an engine runs: the stage of that index, the token-level head, or all stages at once."""


def unit_name(unit: Unit) -> str:
    """What a unit's files are called: stage_0, head or fused."""
    return unit if isinstance(unit, str) else f"stage_{unit}"


def graph_file(unit: Unit) -> str:
    """A unit's graph in the artifact."""
    return f"stages/{unit_name(unit)}.onnx"


def int8_graph_file(graph: str) -> str:
    """The quantised graph beside a stage's own: stages/stage_0-int8.onnx."""
    return graph.replace(".onnx", "-int8.onnx")


def engine_stem(unit: Unit, bucket: Bucket) -> str:
    """Name of an engine's file without its suffix: stage_0_b8_s128."""
    return f"{unit_name(unit)}_b{bucket.batch}_s{bucket.length}"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StagePlan(_Strict):
    """One stage: its graph, its steps such as "attend 2", and its buckets where they are not those of the plan.

    milliseconds: of a call of each of its buckets, as the planner saw it; empty where it did not choose the plan.
    """

    graph: RelativePath
    steps: list[str]
    buckets: list[Bucket] | None = Field(None, min_length=1)
    milliseconds: list[Annotated[float, Field(gt=0)]] = []


class FusedBucket(_Strict):
    """A static shape of the whole model.

    capacities: rows behind every cut; a sample that carries on more anywhere is run again through the stages.
    """

    bucket: Bucket
    capacities: list[Positive] = Field(min_length=1)

    @model_validator(mode="after")
    def _capacities_fall(self) -> FusedBucket:
        rows = [self.bucket.length, *self.capacities]
        if sorted(rows, reverse=True) != rows:
            raise ValueError(f"expected capacities from {self.bucket.length} down, found {self.capacities}")
        return self


class FusedPlan(_Strict):
    """The engines of the whole model, for the batch sizes at which they are used.

    overflow: share of samples that are expected to be run again, by batch size.
    expected: milliseconds per sample by batch size, with those that are run again, where the planner chose the plan.
    """

    graph: RelativePath
    buckets: list[FusedBucket] = Field(min_length=1)
    overflow: dict[int, Annotated[float, Field(ge=0, le=1)]] = {}
    expected: dict[int, float] = {}

    @property
    def batches(self) -> list[int]:
        """The batch sizes, ascending."""
        return sorted({fused.bucket.batch for fused in self.buckets})


class Plan(_Strict):
    """The stages, the buckets that they are compiled for, and the number format of their graphs.

    kind:     whether there are fused engines beside those of the stages.
    expected: milliseconds per sample through the stages by batch size, as the planner saw it, where it chose the plan.
    """

    kind: Literal["staged", "fused"]
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    stages: list[StagePlan] = Field(min_length=1)
    head_graph: RelativePath | None = None
    buckets: list[Bucket] = Field(min_length=1)
    expected: dict[int, float] = {}
    fused: FusedPlan | None = None

    @property
    def graphs(self) -> dict[Unit, str]:
        """The graph of every unit."""
        graphs: dict[Unit, str] = {index: stage.graph for index, stage in enumerate(self.stages)}
        if self.head_graph is not None:
            graphs["head"] = self.head_graph
        if self.fused is not None:
            graphs["fused"] = self.fused.graph
        return graphs

    @property
    def units(self) -> list[Unit]:
        """All that there are engines of."""
        return list(self.graphs)

    def buckets_of(self, unit: Unit) -> list[Bucket]:
        """What a unit is compiled for."""
        if unit == "fused":
            return [] if self.fused is None else [fused.bucket for fused in self.fused.buckets]
        own = None if unit == "head" else self.stages[int(unit)].buckets
        return self.buckets if own is None else own

    def problems(self, max_length: int) -> list[str]:
        """What does not fit together, in a model of inputs up to `max_length`; one line each."""
        problems = []
        lists = {"plan.buckets": self.buckets}
        lists |= {f"plan.stages.{i}.buckets": stage.buckets for i, stage in enumerate(self.stages) if stage.buckets}
        for name, buckets in lists.items():
            longest = max(bucket.length for bucket in buckets)
            if longest < max_length:
                problems.append(f"{name}: the longest is {longest}, expected at least max_length {max_length}")
        lists["plan.fused.buckets"] = self.buckets_of("fused")
        for name, buckets in lists.items():
            problems += [f"{name}: {bucket} is listed twice" for bucket in repeated(buckets)]
        for index, stage in enumerate(self.stages):
            expected, found = len(self.buckets_of(index)), len(stage.milliseconds)
            if found not in (0, expected):
                problems.append(f"plan.stages.{index}.milliseconds: expected none or {expected}, found {found}")
        if (self.kind == "fused") != (self.fused is not None):
            problems.append(f"plan.kind: expected {'staged' if self.fused is None else 'fused'}, found {self.kind}")
        if self.fused is not None and self.head_graph is not None:
            problems.append("plan.fused: a token-level head reads rows that a fused engine drops")
        for fused in [] if self.fused is None else self.fused.buckets:
            if len(fused.capacities) != len(self.stages) - 1:
                problems.append(
                    f"plan.fused.buckets: {fused.bucket} has {len(fused.capacities)} capacities, "
                    f"expected one for each of the {len(self.stages) - 1} cuts"
                )
        return problems


def repeated(items: list) -> list:
    """The items that were there before."""
    seen: set = set()
    return [item for item in items if item in seen or seen.add(item)]  # type: ignore[func-returns-value]
