"""Capacities and lengths of fused engines: never better on paper than they are, and staged where that is faster."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engines.buckets import Bucket, parse_buckets
from engines.errors import InputError
from pipeline.builder.config import BuildConfig
from pipeline.planning.fused import QUANTILES, FusedPlanner, given_fused, refuse_fused, room_for, with_fused
from pipeline.planning.plan import Planner, StagedPlan
from tests.conftest import LONGEST, TinyModel
from tests.planning.test_plan import RowCost, falling

COUNTS = arrays.arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.integers(1, 32))


@given(counts=COUNTS, quantile=st.sampled_from(QUANTILES))
def test_each_sample_is_judged_by_the_room_that_the_others_give(counts: np.ndarray, quantile: float) -> None:
    counts = np.sort(counts, axis=1)[:, ::-1]
    room = room_for(counts, 32, quantile)
    assert [32, *room.capacities] == sorted([32, *room.capacities], reverse=True)
    for index, sample in enumerate(counts):
        others = np.delete(counts, index, axis=0)
        roomy = len(others) and (sample <= room_for(others, 32, quantile).capacities).all()
        assert room.overflows[index] == (not roomy)
    if quantile == 1.0:
        assert (counts <= room.capacities).all()


def test_a_length_without_samples_has_room_for_everything() -> None:
    room = room_for(np.zeros((0, 2), int), 24, 0.5)
    assert room.capacities == (24, 24) and not len(room.overflows)


def planner_of(model, call: float, share: float = 0.5, engines: int = 64, spread: int = 0) -> Planner:
    rows = falling(model, share, samples=60)
    noise = np.random.default_rng(0).integers(0, spread + 1, rows.shape)
    rows[:, 1:] = np.minimum.accumulate(np.minimum(rows[:, :1], rows[:, 1:] + noise[:, 1:]), axis=1)
    return Planner(model, rows, RowCost(call), (1, 2), engines)


@pytest.mark.parametrize("spread", [0, 6])
def test_fused_where_a_call_costs_more_than_rows_and_staged_where_it_costs_nothing(
    tiny_model: TinyModel, spread: int
) -> None:
    model = tiny_model("transkimmer")
    dear, free = (planner_of(model, call, spread=spread) for call in (30, 0))
    plan = with_fused(dear, dear.best(), "auto")
    assert plan.cuts and plan.fused is not None and plan.fused.batches == [1, 2]
    for batch in (1, 2):
        assert 1e-3 * plan.fused.expected[batch] < plan.expected[batch]
    assert sum(map(len, plan.buckets)) + len(plan.fused.buckets) <= dear.engines
    staged = free.best()
    assert with_fused(free, staged, "auto") is staged
    forced = with_fused(free, staged, "fused")
    assert forced.fused is not None and forced.fused.batches == [1, 2]


def test_where_nothing_is_cut_nothing_is_fused(tiny_model: TinyModel) -> None:
    planner = planner_of(tiny_model("transkimmer"), call=1e6)
    staged = planner.best()
    assert with_fused(planner, staged, "auto") is staged
    with pytest.raises(InputError, match="the planner cuts this model nowhere"):
        with_fused(planner, staged, "fused")


def test_too_few_engines_for_both_kinds(tiny_model: TinyModel) -> None:
    planner = planner_of(tiny_model("transkimmer"), call=30, engines=3)
    staged = planner.best()
    assert with_fused(planner, staged, "auto") is staged
    with pytest.raises(InputError, match="--max-engines of at least 4, found 3"):
        with_fused(planner, staged, "fused")


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), limit=st.integers(1, 4))
def test_lengths_are_those_of_an_exhaustive_search(tiny_model: TinyModel, seed: int, limit: int) -> None:
    model, rng = tiny_model("transkimmer"), np.random.default_rng(seed)
    rows = np.sort(rng.integers(1, LONGEST + 1, (10, 5)), axis=1)[:, ::-1]
    planner = Planner(model, rows, RowCost(20), (1,), 99)
    cuts = (1, 2)
    staged = planner.given(cuts)
    again, candidates = planner.times(staged, 1), planner.candidates()
    fused = FusedPlanner(planner, staged, limit)

    def cost(ends: tuple[int, ...]) -> float:
        total, shortest = 0.0, 0
        for length in ends:
            chosen, shortest = (rows[:, 0] > shortest) & (rows[:, 0] <= length), length
            rooms = [room_for(rows[chosen][:, [2, 3]], length, quantile) for quantile in QUANTILES]
            total += min(
                chosen.sum() * fused.seconds(Bucket(batch=1, length=length), room.capacities)
                + again[chosen][room.overflows].sum()
                for room in rooms
            )
        return total / len(rows)

    last = next(length for length in candidates if length >= rows[:, 0].max())
    shorter = [length for length in candidates if length < last]
    sets = [(*some, last) for count in range(limit) for some in itertools.combinations(shorter, count)]
    plan = fused.best([1])
    assert cost(tuple(b.bucket.length for b in plan.buckets)) == pytest.approx(min(map(cost, sets)))
    assert plan.buckets[-1].bucket.length == last and len(plan.buckets) <= limit


def test_what_is_expected_is_what_other_texts_meet(tiny_model: TinyModel) -> None:
    """Retention without any rule: what was chosen from some texts fits the next ones as often as was expected."""
    model, rng = tiny_model("transkimmer"), np.random.default_rng(0)
    rows = np.sort(rng.integers(1, LONGEST + 1, (1600, 5)), axis=1)[:, ::-1]
    planner = Planner(model, rows[:300], RowCost(20), (1,), 99)
    plan = FusedPlanner(planner, planner.given((0, 1, 2, 3)), 4).best([1])
    measured = np.mean(
        [(row[1:] > next(b for b in plan.buckets if b.bucket.length >= row[0]).capacities).any() for row in rows[300:]]
    )
    assert 0.01 < plan.overflow[1] < 0.5  # otherwise nothing was tested
    assert plan.overflow[1] == pytest.approx(measured, abs=0.04)


def test_a_call_costs_what_its_rows_cost(tiny_model: TinyModel) -> None:
    planner = planner_of(tiny_model("transkimmer"), call=7)
    fused = FusedPlanner(planner, StagedPlan(cuts=(2,), buckets=()), 8)
    # Two layers at the length, two at the capacity: Transkimmer decides before a layer.
    assert fused.seconds(Bucket(batch=1, length=32), [8]) == pytest.approx(7 + 2 * 32 + 2 * 8)
    assert fused.seconds(Bucket(batch=2, length=32), [8]) == pytest.approx(7 + 2 * (2 * 32 + 2 * 8))


def test_given_buckets_get_a_quantile_of_their_own_texts(tiny_model: TinyModel) -> None:
    lengths = np.repeat([8, 24], 40)
    rows = np.column_stack([lengths, lengths // 2, lengths // 4])
    fused = given_fused(rows, (0, 1), parse_buckets("1x8,1x24,1x32,2x32"))
    assert {str(b.bucket): b.capacities for b in fused.buckets} == {
        "1x8": [8, 8],
        "1x24": [16, 8],
        "1x32": [32, 32],
        "2x32": [16, 8],
    }
    assert fused.overflow == {1: 0, 2: 0} and not fused.expected


@pytest.mark.parametrize(
    ("head", "settings", "message"),
    [
        ("tagging", {}, "a tagging head reads the last state of every token"),
        ("classification", {"target": "tensorrt"}, "not yet on tensorrt"),
        ("classification", {"precision": "int8"}, "stage by stage"),
        ("classification", {"token_budget": 2048}, "in larger batches than fused engines are built for"),
    ],
)
def test_where_there_are_no_fused_engines(tiny_model: TinyModel, head: str, settings: dict, message: str) -> None:
    model = tiny_model("ltp", head).config
    refuse_fused(BuildConfig(plan="auto", **settings), model)
    with pytest.raises(InputError, match=message):
        refuse_fused(BuildConfig(plan="fused", **settings), model)
