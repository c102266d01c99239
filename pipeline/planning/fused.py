"""Fused plans: lengths and capacities for engines of the whole model, and where these are faster than the stages.

A capacity is a quantile of the rows behind a cut, among the texts that a length is for. More room costs every text a
little, less room costs those that do not fit the whole way through the stages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

import numpy as np

from engines.buckets import Bucket
from engines.errors import InputError
from engines.plan import FusedBucket, FusedPlan
from pipeline.config import BuildConfig
from pipeline.graph.stages import cut_stages
from pipeline.model.config import CheckpointConfig
from pipeline.planning.costs import StageShape
from pipeline.planning.plan import FINEST, Planner, StagedPlan

GRAPH = "stages/fused.onnx"
QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""What the planner chooses from, for each length."""
GIVEN_QUANTILE = 0.95
"""Where the buckets are given and no costs are known."""
SHARE = 0.25
"""Of all engines, those that may be fused; the others are for what overflows and for the batch sizes in stages."""


def why_staged(config: BuildConfig, model: CheckpointConfig) -> str | None:
    """Why a model cannot have fused engines in a build, or None."""
    if model.head.token_level:
        return f"a {model.head.kind} head reads the last state of every token, which fused engines drop"
    if config.target != "cpu":
        return f"fused engines run on the target cpu, not yet on {config.target}"
    if config.precision == "int8":
        return "INT8 engines are chosen stage by stage"
    return None


def refuse_fused(config: BuildConfig, model: CheckpointConfig) -> None:
    """Raises InputError for fused engines that are asked for where there are none."""
    reason = why_staged(config, model)
    if config.plan == "fused" and reason is not None:
        raise InputError(f"plan 'fused': {reason}; build with --plan auto or staged")


@dataclass(frozen=True)
class Room:
    """What a fused engine has room for, and which samples do not fit.

    overflows: [samples] bool, each judged by the capacities that the other samples give, as a new one would be.
    """

    capacities: tuple[int, ...]
    overflows: np.ndarray


def room_for(counts: np.ndarray, length: int, quantile: float) -> Room:
    """Capacities from the rows [samples, cuts] that samples of at most `length` rows carry on behind each cut."""
    if not len(counts):
        return Room((length,) * counts.shape[1], np.zeros(0, bool))
    ordered = np.sort(counts, axis=0)
    chosen = _rounded(ordered[ceil(quantile * len(counts)) - 1], length)
    if len(counts) == 1:
        return Room(tuple(chosen.tolist()), np.ones(1, bool))
    # Without a sample that lies above it, the quantile of the others is this; one below it never overflows.
    others = _rounded(ordered[ceil(quantile * (len(counts) - 1)) - 1], length)
    return Room(tuple(chosen.tolist()), np.any(counts > others, axis=1))


@dataclass(frozen=True)
class FusedPlanner:
    """Fused engines for the stages of a plan.

    engines: most of them, over all batch sizes.
    """

    planner: Planner
    staged: StagedPlan
    engines: int

    def best(self, batches: Iterable[int]) -> FusedPlan:
        """The lengths and capacities of least expected time for these batch sizes, each by itself."""
        buckets: list[FusedBucket] = []
        overflow, expected = {}, {}
        for batch in batches:
            held, again, seconds = self._of_batch(batch)
            buckets += held
            overflow[batch], expected[batch] = round(again, 4), round(1e3 * seconds, 4)
        return FusedPlan(graph=GRAPH, buckets=buckets, overflow=overflow, expected=expected)

    def seconds(self, bucket: Bucket, capacities: Sequence[int]) -> float:
        """Expected time of one call: the whole model, with the layers behind every cut at its capacity."""
        batch, lengths = bucket.batch, [bucket.length, *capacities]
        total, layer_at_start = self._uncut(batch, bucket.length)
        for layers, length in zip(self._layers, lengths, strict=True):
            total += layers * (self._uncut(batch, length)[1] - layer_at_start)
        return total + sum(self.planner.costs.compaction(batch, length) for length in lengths[:-1])

    @cached_property
    def _layers(self) -> list[float]:
        """How many layers' work each stage does: a third of it is the attention's, as of the weights."""
        specs = cut_stages(self.planner.model, self.staged.cuts)
        kinds = [[step.kind for step in spec.steps] for spec in specs]
        return [(steps.count("attend") + 2 * steps.count("feed")) / 3 for steps in kinds]

    @cached_property
    def _counts(self) -> np.ndarray:
        """[samples, cuts], rows behind every cut."""
        return self.planner.rows[:, [layer + 1 for layer in self.staged.cuts]]

    @cached_property
    def _known(self) -> dict[tuple[int, int], tuple[float, float]]:
        return {}

    def _uncut(self, batch: int, length: int) -> tuple[float, float]:
        """Seconds of a call of the whole model without a cut, and of one more layer."""
        if (batch, length) not in self._known:
            layers = self.planner.model.config.encoder.layers
            whole, more = (self._call(StageShape("whole", n), batch, length) for n in (layers, layers + 1))
            self._known[batch, length] = whole, more - whole
        return self._known[batch, length]

    def _call(self, stage: StageShape, batch: int, length: int) -> float:
        costs = self.planner.costs
        return costs.alone(stage, length) if batch == 1 else costs.together(stage, batch, length)

    def _of_batch(self, batch: int) -> tuple[list[FusedBucket], float, float]:
        """The engines of a batch size, the share that overflows, and the expected seconds per sample."""
        rows, again = self.planner.rows[:, 0], self.planner.times(self.staged, batch)
        candidates = self.planner.candidates()
        ends = candidates[: 1 + int(np.searchsorted(candidates, rows.max()))]
        limit = min(len(ends), max(1, self.engines // len(self.planner.batches)))

        def piece(first: int, last: int) -> tuple[float, int, Room, int]:
            """The best room for the samples longer than one end and at most as long as the next."""
            chosen = np.flatnonzero((rows > (ends[first - 1] if first else 0)) & (rows <= ends[last]))
            length, options = ends[last], []
            for quantile in QUANTILES:
                room = room_for(self._counts[chosen], length, quantile)
                call = self.seconds(Bucket(batch=batch, length=length), room.capacities)
                cost = len(chosen) * call / batch + float(again[chosen][room.overflows].sum())
                options.append((cost, int(room.overflows.sum()), room, length))
            return min(options, key=lambda option: option[0])

        pieces = {(i, j): piece(i, j) for j in range(len(ends)) for i in range(j + 1)}
        # least[n][j]: the samples up to the end j in n + 1 engines.
        least = [[(pieces[0, j][0], 0) for j in range(len(ends))]]
        for _ in range(1, limit):
            before = least[-1]
            least.append(
                [
                    min(((before[i - 1][0] + pieces[i, j][0], i) for i in range(1, j + 1)), default=(np.inf, 0))
                    for j in range(len(ends))
                ]
            )
        engines = min(range(limit), key=lambda n: least[n][-1][0])
        total, held, last = least[engines][-1][0], [], len(ends) - 1
        for n in range(engines, -1, -1):
            first = least[n][last][1]
            held.append(pieces[first, last])
            last = first - 1
        buckets = [
            FusedBucket(bucket=Bucket(batch=batch, length=length), capacities=list(room.capacities))
            for _, _, room, length in reversed(held)
        ]
        return buckets, sum(count for _, count, _, _ in held) / len(rows), total / len(rows)


def given_fused(rows: np.ndarray, cuts: Sequence[int], buckets: Iterable[Bucket]) -> FusedPlan:
    """Fused engines of given buckets, whose capacities are a quantile of what their texts carry on.

    rows: [samples, layers + 1] of typical texts.
    """
    held, overflow = [], {}
    counts = rows[:, [layer + 1 for layer in cuts]]
    ordered = sorted(buckets)
    for batch in sorted({bucket.batch for bucket in ordered}):
        shortest, again = 0, 0
        for length in (bucket.length for bucket in ordered if bucket.batch == batch):
            chosen = (rows[:, 0] > shortest) & (rows[:, 0] <= length)
            room, shortest = room_for(counts[chosen], length, GIVEN_QUANTILE), length
            again += int(room.overflows.sum())
            held.append(FusedBucket(bucket=Bucket(batch=batch, length=length), capacities=list(room.capacities)))
        overflow[batch] = round(again / len(rows), 4)
    return FusedPlan(graph=GRAPH, buckets=held, overflow=overflow)


def with_fused(planner: Planner, staged: StagedPlan, wanted: str) -> StagedPlan:
    """The staged plan, or one with fused engines at the batch sizes where they are expected to be faster.

    wanted: "auto", or "fused" for fused engines at every batch size. All engines together are as many as the planner
    may use. Raises InputError where there is nothing to fuse.
    """
    room = max(len(planner.batches), int(SHARE * planner.engines))
    if planner.engines < 2 * len(planner.batches):
        if wanted == "fused":
            needed = 2 * len(planner.batches)
            raise InputError(f"plan 'fused': expected --max-engines of at least {needed}, found {planner.engines}")
        return staged
    beside = replace(planner, engines=planner.engines - room).best()
    if not beside.cuts:
        if wanted == "fused":
            raise InputError(
                "plan 'fused': the planner cuts this model nowhere, so one stage is all of it already; build without "
                "--plan, or name cuts with --stages"
            )
        return staged
    fused = FusedPlanner(planner, beside, room)
    batches = list(planner.batches)
    if wanted == "auto":
        everywhere = fused.best(batches)
        batches = [batch for batch in batches if 1e-3 * everywhere.expected[batch] < beside.expected[batch]]
        least = [min(1e-3 * everywhere.expected[batch], beside.expected[batch]) for batch in planner.batches]
        if not batches or sum(least) >= sum(staged.expected.values()):
            return staged
    return beside.model_copy(update={"fused": fused.best(batches)})


def _rounded(counts: np.ndarray, length: int) -> np.ndarray:
    return np.minimum(-(-counts // FINEST) * FINEST, length)
