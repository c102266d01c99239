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
from engines.plan import FusedBucket, FusedPlan, graph_file
from pipeline.builder.config import BuildConfig
from pipeline.model.config import CheckpointConfig
from pipeline.planning.costs import StageShape
from pipeline.planning.plan import FINEST, Planner, StagedPlan

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""What the planner chooses from, for each length."""
GIVEN_QUANTILE = 0.95
"""Where the buckets are given and no costs are known."""
_FOLDS = 8
"""Parts of the texts, each of which is met by engines that were chosen from the others."""
_WORTH_IT = 0.97
"""Fused engines are taken when a sample's time falls below this share of that through the stages: they hold all
weights once more."""
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
    if config.token_budget is not None:
        return "with --token-budget the stages run in larger batches than fused engines are built for"
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


_Piece = tuple[np.ndarray, list[tuple[tuple[int, ...], np.ndarray]]]
"""Samples, by index, and by quantile the capacities for them and those of them that then overflow."""


@dataclass(frozen=True)
class _Pieces:
    """Pieces of some samples: pieces[i, j] are those longer than ends[i - 1] and not longer than ends[j]."""

    ends: list[int]
    pieces: dict[tuple[int, int], _Piece]


@dataclass(frozen=True)
class FusedPlanner:
    """Fused engines for the stages of a plan.

    engines: most of them, over all batch sizes.
    """

    planner: Planner
    staged: StagedPlan
    engines: int

    def best(self, batches: Iterable[int]) -> FusedPlan:
        """The lengths and capacities of least expected time for these batch sizes, each by itself.

        What is expected of them is what each part of the samples meets in engines that are chosen from the others: a
        choice always looks better on the samples that it was made for.
        """
        buckets: list[FusedBucket] = []
        overflow, expected = {}, {}
        everything = np.arange(len(self.planner.rows))
        pieces = self._pieces(everything)  # the same at every batch size
        parts = [
            (self._pieces(np.flatnonzero(everything % _FOLDS != fold)), held)
            for fold in range(_FOLDS)
            if len(held := np.flatnonzero(everything % _FOLDS == fold))
        ]
        for batch in batches:
            again = self.planner.times(self.staged, batch)
            buckets += self._chosen(batch, pieces, again)
            met = [self._outcome(self._chosen(batch, others, again), held, again) for others, held in parts]
            overflows, seconds = (np.concatenate(values) for values in zip(*met, strict=True))
            overflow[batch] = round(float(overflows.mean()), 4)
            expected[batch] = round(1e3 * (float(seconds.mean()) + self.planner.tokenising.get(batch, 0.0)), 4)
        return FusedPlan(graph=graph_file("fused"), buckets=buckets, overflow=overflow, expected=expected)

    def seconds(self, bucket: Bucket, capacities: Sequence[int]) -> float:
        """Expected time of one call: that of the stages at these lengths, without what lies between them."""
        costs, batch, lengths = self.planner.costs, bucket.batch, [bucket.length, *capacities]
        stages = sum(self._stage(index, batch, length) for index, length in enumerate(lengths))
        return stages - sum(costs.boundary(batch, length) for length in capacities)

    @cached_property
    def _shapes(self) -> list[StageShape]:
        return self.planner.shapes(self.staged.cuts)

    @cached_property
    def _counts(self) -> np.ndarray:
        """[samples, cuts], rows behind every cut."""
        return self.planner.rows[:, [layer + 1 for layer in self.staged.cuts]]

    @cached_property
    def _known(self) -> dict[tuple[int, int, int], float]:
        return {}

    def _stage(self, index: int, batch: int, length: int) -> float:
        """Seconds of a call of a stage."""
        key = (index, batch, length)
        if key not in self._known:
            costs, shape = self.planner.costs, self._shapes[index]
            self._known[key] = costs.alone(shape, length) if batch == 1 else costs.together(shape, batch, length)
        return self._known[key]

    def _pieces(self, samples: np.ndarray) -> _Pieces:
        """Samples, by index, from every candidate length to every other, and the room that they could be given."""
        candidates = self.planner.candidates()
        if not len(samples):
            return _Pieces([], {})
        lengths = self.planner.rows[samples, 0]
        ends = candidates[: 1 + int(np.searchsorted(candidates, lengths.max()))]
        by_length = samples[np.argsort(lengths, kind="stable")]
        places = [0, *np.searchsorted(np.sort(lengths), ends, side="right").tolist()]

        def piece(first: int, last: int) -> _Piece:
            within = by_length[places[first] : places[last + 1]]
            rooms = (room_for(self._counts[within], ends[last], quantile) for quantile in QUANTILES)
            return within, [(room.capacities, within[room.overflows]) for room in rooms]

        return _Pieces(ends, {(i, j): piece(i, j) for j in range(len(ends)) for i in range(j + 1)})

    def _chosen(self, batch: int, samples: _Pieces, again: np.ndarray) -> list[FusedBucket]:
        """The engines of least time for some samples; `again` [samples] is what running one again takes."""
        if not samples.ends:
            return []
        ends = samples.ends
        limit = min(len(ends), max(1, self.engines // len(self.planner.batches)))

        def piece(first: int, last: int) -> tuple[float, FusedBucket]:
            """What samples from one end to another cost, each end the longest of its bucket, and the room for them."""
            bucket, (within, rooms) = Bucket(batch=batch, length=ends[last]), samples.pieces[first, last]
            cost, capacities = min(
                (len(within) * self.seconds(bucket, room) / batch + float(again[over].sum()), room)
                for room, over in rooms
            )
            return cost, FusedBucket(bucket=bucket, capacities=list(capacities))

        pieces = {(i, j): piece(i, j) for j in range(len(ends)) for i in range(j + 1)}
        # least[n][j]: the samples up to the end j in n + 1 engines, and where the last of them begins.
        least = [[(pieces[0, j][0], 0) for j in range(len(ends))]]
        for _ in range(1, limit):
            before = least[-1]
            options = [[(before[i - 1][0] + pieces[i, j][0], i) for i in range(1, j + 1)] for j in range(len(ends))]
            least.append([min(found, default=(np.inf, 0)) for found in options])
        held, last = [], len(ends) - 1
        for n in range(min(range(limit), key=lambda n: least[n][-1][0]), -1, -1):
            first = least[n][last][1]
            held.append(pieces[first, last][1])
            last = first - 1
        return held[::-1]

    def _outcome(
        self, engines: Sequence[FusedBucket], samples: np.ndarray, again: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whether each of some samples overflows engines, and its expected seconds, with the stages if it does.

        One that is too long for the engines goes through the stages at once.
        """
        overflows, seconds = np.zeros(len(samples), bool), again[samples]
        for place, sample in enumerate(samples):
            fused = next((e for e in engines if e.bucket.length >= self.planner.rows[sample, 0]), None)
            if fused is not None:
                call = self.seconds(fused.bucket, fused.capacities) / fused.bucket.batch
                overflows[place] = (self._counts[sample] > fused.capacities).any()
                seconds[place] = call + overflows[place] * again[sample]
        return overflows, seconds


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
    return FusedPlan(graph=graph_file("fused"), buckets=held, overflow=overflow)


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
        batches = [b for b in batches if 1e-3 * everywhere.expected[b] < _WORTH_IT * beside.expected[b]]
        least = [min(1e-3 * everywhere.expected[batch], beside.expected[batch]) for batch in planner.batches]
        if not batches or sum(least) >= sum(staged.expected.values()):
            return staged
    return beside.model_copy(update={"fused": fused.best(batches)})


def _rounded(counts: np.ndarray, length: int) -> np.ndarray:
    return np.minimum(-(-counts // FINEST) * FINEST, length)
