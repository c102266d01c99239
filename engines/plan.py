"""The plan of an artifact: its stages, and what each is compiled for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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
Unit = int | Literal["head"]
"""What an engine runs: the stage of that index, or the token-level head."""


def unit_name(unit: Unit) -> str:
    """What a unit's files are called: stage_0 or head."""
    return unit if isinstance(unit, str) else f"stage_{unit}"


def graph_file(unit: Unit) -> str:
    """A unit's graph in the artifact."""
    return f"stages/{unit_name(unit)}.onnx"


def int8_graph_file(graph: str) -> str:
    """The quantised graph beside a stage's own: stages/stage_0-int8.onnx."""
    return graph.replace(".onnx", "-int8.onnx")


def weights_file(engine: str) -> str:
    """The file of the large weights that an engine's own file does not hold: stage_0.onnx.weights by stage_0.onnx."""
    return f"{engine}.weights"


def profile_stem(unit: Unit, bucket: Bucket) -> str:
    """What files that concern one profile of a unit's engine are called: stage_0_b8_s128."""
    return f"{unit_name(unit)}_b{bucket.batch}_s{bucket.length}"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StagePlan(_Strict):
    """One stage: its graph, its steps such as "attend 2", and its buckets where they are not those of the plan.

    int8_graph:   the quantised graph, where the stage has any layer in INT8.
    milliseconds: of a call of each of its buckets, as the planner saw it; empty where it did not choose the plan.
    """

    graph: RelativePath
    int8_graph: RelativePath | None = None
    steps: list[str]
    buckets: list[Bucket] | None = Field(None, min_length=1)
    milliseconds: list[Annotated[float, Field(gt=0)]] = []


class Plan(_Strict):
    """The stages, the buckets that they are compiled for, and the number format of their graphs.

    expected_ms: milliseconds per sample by batch size, as the planner saw it; empty where it did not choose the plan.
    padding:     rows computed over rows alive, minus 1, of the gates' texts one by one; None in older artifacts.
    """

    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    stages: list[StagePlan] = Field(min_length=1)
    head_graph: RelativePath | None = None
    buckets: list[Bucket] = Field(min_length=1)
    expected_ms: dict[int, float] = {}
    padding: Annotated[float, Field(ge=0)] | None = None

    @property
    def graphs(self) -> dict[Unit, str]:
        """The graph of every unit."""
        graphs: dict[Unit, str] = {index: stage.graph for index, stage in enumerate(self.stages)}
        if self.head_graph is not None:
            graphs["head"] = self.head_graph
        return graphs

    @property
    def units(self) -> list[Unit]:
        """The stages, then the token-level head if there is one."""
        return list(self.graphs)

    def buckets_of(self, unit: Unit) -> list[Bucket]:
        """What a unit is compiled for."""
        own = None if unit == "head" else self.stages[unit].buckets
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
            problems += [f"{name}: {bucket} is listed twice" for bucket in repeated(buckets)]
        for index, stage in enumerate(self.stages):
            expected, found = len(self.buckets_of(index)), len(stage.milliseconds)
            if found not in (0, expected):
                problems.append(f"plan.stages.{index}.milliseconds: expected none or {expected}, found {found}")
        return problems


def repeated(items: list) -> list:
    """The items that were there before."""
    seen: set = set()
    return [item for item in items if item in seen or seen.add(item)]  # type: ignore[func-returns-value]
