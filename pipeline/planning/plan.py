"""From a model, its retention and a cost model to stages and their buckets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pydantic import BaseModel, ConfigDict

from engines.buckets import Bucket
from pipeline.graph.stages import attentions, cut_stages, decision_layers
from pipeline.model.transformer import PrunedTransformer
from pipeline.planning.costs import CostModel, Kind, StageShape
from pipeline.planning.knee import Knee
from pipeline.planning.search import Problem, expected_time, solve

_FINEST = 8
"""Lengths worth compiling are multiples of this where matrix products run in tiles, as on tensor cores."""
_FINEST_CPU = 4
"""On a CPU products have no such tiles, and padding costs more than the profiles that avoid it."""
_CANDIDATES = 64
"""Candidate lengths, where that many are not closer together than the target gains from."""
_EARNS = 1e-4
"""Share of the time of a text that a profile has to save, for its kernels and buffers cost a little memory."""


def finest_for(target: str) -> int:
    """Returns the step between candidate lengths on a target."""
    return _FINEST_CPU if target == "cpu" else _FINEST


class ChosenPlan(BaseModel):
    """The cuts and buckets that a build compiles.

    cuts:             layers whose decisions end a stage.
    buckets:          one tuple per stage.
    expected_seconds: seconds per sample, by batch size; empty if no costs are known.
    call_seconds:     seconds of one call, per stage and bucket; () if no costs are known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cuts: tuple[int, ...]
    buckets: tuple[tuple[Bucket, ...], ...]
    expected_seconds: dict[int, float] = {}
    call_seconds: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Planner:
    """Plans for a model.

    rows:    [samples, layers + 1] rows of typical inputs: the real length, then behind every layer's decision.
    batches: batch sizes to compile; the plan is the best for their mean, each sample alone for 1.
    lengths: the only bucket lengths to consider, all of which every stage then gets; None: any.
    profiles: most profiles of the whole plan.
    tokenising_seconds: of a text by batch size, which every plan pays alike and every expected time includes.
    finest: what candidate lengths are multiples of.
    """

    model: PrunedTransformer
    rows: np.ndarray
    costs: CostModel
    batches: Sequence[int]
    profiles: int
    lengths: Sequence[int] | None = None
    tokenising_seconds: Mapping[int, float] = field(default_factory=dict)
    finest: int = _FINEST
    _knees: dict[tuple[StageShape, int], Knee] = field(default_factory=dict, repr=False, compare=False)

    @property
    def points(self) -> list[int]:
        """The layers that decide."""
        return decision_layers(self.model)

    def best(self) -> ChosenPlan:
        """Returns the plan with the least expected time. The plan without a cut competes too."""
        problem = self._problem(self.batches)
        solution = solve(problem)
        lengths = solution.lengths if self.lengths is None else [self.lengths] * len(solution.starts)
        plan = self._plan(solution.starts, lengths)
        uncut = self.given([], None if self.lengths is None else [self.lengths])
        # Fewer profiles are worth some time, but not more than cutting saves.
        return uncut if sum(uncut.expected_seconds.values()) < sum(plan.expected_seconds.values()) else plan

    def given(self, cuts: Sequence[int], lengths: Sequence[Sequence[int]] | None = None) -> ChosenPlan:
        """A plan with these cuts, and its expected time; without `lengths`, the best ones."""
        starts = self._starts(cuts)
        if lengths is None:
            ends = [*starts[1:], len(self.points) + 1]
            per_stage = max(1, self.profiles // len(self.batches) // len(starts))
            lengths = [
                solve(self._problem(self.batches, (first, last), per_stage)).lengths[0]
                for first, last in zip(starts, ends, strict=True)
            ]
        return self._plan(starts, lengths)

    def shapes(self, cuts: Sequence[int]) -> list[StageShape]:
        """Returns what the costs of the stages with these cuts depend on."""
        ends = [*self._starts(cuts), len(self.points) + 1]
        specs = cut_stages(self.model, cuts)
        pairs = zip(ends, ends[1:], specs, strict=False)
        return [StageShape(self._kind(first, last), attentions(spec)) for first, last, spec in pairs]

    def timed(self, plan: ChosenPlan) -> ChosenPlan:
        """Returns the plan with the seconds of every call, for calls of one engine that follow each other."""
        call_seconds = tuple(
            tuple(self.costs.together(shape, bucket.batch, bucket.length) for bucket in buckets)
            for shape, buckets in zip(self.shapes(plan.cuts), plan.buckets, strict=True)
        )
        return plan.model_copy(update={"call_seconds": call_seconds})

    def _starts(self, cuts: Sequence[int]) -> tuple[int, ...]:
        """The points where the stages with these cuts begin."""
        return (0, *(self.points.index(layer) + 1 for layer in cuts))

    def _plan(self, starts: Sequence[int], lengths: Sequence[Sequence[int]]) -> ChosenPlan:
        buckets = tuple(
            tuple(Bucket(batch=batch, length=length) for batch in sorted(self.batches) for length in stage_lengths)
            for stage_lengths in lengths
        )
        expected_seconds = {
            batch: expected_time(self._problem([batch]), starts, lengths) + self.tokenising_seconds.get(batch, 0.0)
            for batch in self.batches
        }
        cuts = tuple(self.points[start - 1] for start in starts[1:])
        return ChosenPlan(cuts=cuts, buckets=buckets, expected_seconds=expected_seconds)

    def _problem(
        self, batches: Sequence[int], only: tuple[int, int] | None = None, profiles: int | None = None
    ) -> Problem:
        """Returns the search problem; `only` restricts it to one stage."""
        columns = [0, *(layer + 1 for layer in self.points)]
        pieces = [attentions(spec) for spec in cut_stages(self.model, self.points)]

        def cost(first: int, last: int, length: int) -> float:
            if only is not None:
                first, last = only
            stage = StageShape(self._kind(first, last), sum(pieces[first:last]))
            return sum(self._per_sample(stage, batch, length) for batch in batches) / len(batches)

        rows = self.rows[:, columns if only is None else [columns[only[0]]]]
        limit = self.profiles // len(self.batches) if profiles is None else profiles
        problem = Problem(rows, self.candidates(), cost, max(1, limit))
        return replace(problem, price=_EARNS * expected_time(problem, (0,), (problem.lengths,)))

    def _kind(self, first: int, last: int) -> Kind:
        at_end = last == len(self.points) + 1
        if first == 0:
            return "whole" if at_end else "first"
        return "last" if at_end else "middle"

    def knee(self, stage: StageShape, batch: int) -> Knee:
        """Returns the knee of a stage's calls at a batch size, from the costs of the candidate lengths."""
        key = stage, batch
        if key not in self._knees:
            lengths = self.candidates()
            seconds = [self._call(stage, batch, length) for length in lengths]
            self._knees[key] = Knee.fit([batch * length for length in lengths], seconds)
        return self._knees[key]

    def _call(self, stage: StageShape, batch: int, length: int) -> float:
        return self.costs.alone(stage, length) if batch == 1 else self.costs.together(stage, batch, length)

    def _per_sample(self, stage: StageShape, batch: int, length: int) -> float:
        """Returns the seconds of one sample: alone at batch 1, else alone or in a batch, whichever is cheaper.

        Below the knee a length costs what the first candidate above it does, so no plan gains from going there.
        """
        if batch == 1:
            return self.costs.alone(stage, self._above_knee(stage, 1, length))
        return min(
            self.costs.together(stage, size, self._above_knee(stage, size, length)) / size for size in {1, batch}
        )

    def _above_knee(self, stage: StageShape, batch: int, length: int) -> int:
        """Returns the length, or the first candidate beyond it that has more tokens in flight than the knee."""
        least = self.knee(stage, batch).tokens / batch
        if length >= least:
            return length
        candidates = self.candidates()
        return next((candidate for candidate in candidates if candidate >= max(length, least)), candidates[-1])

    def candidates(self) -> list[int]:
        """The bucket lengths to choose from, ascending; the last holds every input."""
        if self.lengths is not None:
            return sorted(set(self.lengths))
        longest = self.model.config.max_length
        step = max(self.finest, -(-longest // _CANDIDATES // self.finest) * self.finest)
        return [*range(step, longest, step), longest]


def describe(plan: ChosenPlan, model: PrunedTransformer, rows: np.ndarray) -> list[tuple[str, ...]]:
    """Returns one row per stage for `--explain`: its steps, the mean rows that enter it, and its lengths."""
    columns = [0, *(layer + 1 for layer in plan.cuts)]
    specs = cut_stages(model, plan.cuts)
    return [
        (
            str(spec.index),
            f"{spec.step_names[0]} ... {spec.step_names[-1]}",
            f"{rows[:, column].mean():.1f}",
            ", ".join(str(length) for length in sorted({bucket.length for bucket in buckets})),
        )
        for spec, column, buckets in zip(specs, columns, plan.buckets, strict=True)
    ]


def describe_knees(planner: Planner) -> list[str]:
    """Returns a line per batch size for `--explain`: a call of the whole model, and where nothing is gained."""
    whole, longest = StageShape("whole", planner.model.config.encoder.layers), planner.candidates()[-1]
    lines = []
    for batch in planner.batches:
        knee = planner.knee(whole, batch)
        line = f"batch {batch}: a call takes {1e3 * knee.fixed:.2f} ms and {1e6 * knee.per_token:.2f} us a token; "
        if batch * longest <= knee.tokens:
            line += f"not even {batch * longest} tokens in flight, the most there are, make it longer: no pruning pays"
        elif knee.tokens < 2:
            line += "every token that is dropped pays"
        else:
            line += f"below {knee.tokens:.0f} tokens in flight nothing is gained, so nothing is cut there"
        lines.append(line)
    return lines


def padding(plan: ChosenPlan, rows: np.ndarray) -> float:
    """Returns the share of padding: rows computed over rows needed, minus 1."""
    columns = [0, *(layer + 1 for layer in plan.cuts)]
    needed = computed = 0.0
    for column, buckets in zip(columns, plan.buckets, strict=True):
        lengths = np.array(sorted({bucket.length for bucket in buckets}))
        needed += rows[:, column].sum()
        computed += lengths[np.searchsorted(lengths, rows[:, column])].sum()
    return float(computed / needed - 1)
