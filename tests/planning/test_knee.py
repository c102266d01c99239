"""The knee: what is fitted to measured calls, and that no plan cuts or pads for fewer tokens than it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.costs import StageShape
from pipeline.planning.knee import WORTH, Knee
from pipeline.planning.plan import Planner, describe_knees
from tests.conftest import TinyModel
from tests.planning.test_plan import falling

TOKENS = [4, 8, 16, 32, 64, 128, 256]


class LineCost:
    """Calls of a GPU: a fixed time, and so much for every token of the batch."""

    def __init__(self, fixed: float, per_token: float, noise: float = 0.0) -> None:
        self.fixed, self.per_token, self.noise = fixed, per_token, noise

    def alone(self, stage: StageShape, length: int) -> float:
        return self.together(stage, 1, length)

    def together(self, stage: StageShape, batch: int, length: int) -> float:
        wave = 1 + self.noise * (-1) ** (length // 4)
        return stage.layers * (self.fixed + self.per_token * batch * length) * wave


@given(fixed=st.floats(1e-6, 1e-2), per_token=st.floats(1e-9, 1e-3))
def test_a_line_is_found_and_below_its_knee_dropping_everything_saves_little(fixed: float, per_token: float) -> None:
    knee = Knee.fit(TOKENS, [fixed + per_token * tokens for tokens in TOKENS])
    assert knee.fixed == pytest.approx(fixed, rel=1e-3, abs=1e-3 * per_token)
    assert knee.per_token == pytest.approx(per_token, rel=1e-2, abs=1e-5 * fixed)
    at_knee = fixed + per_token * knee.tokens
    assert (at_knee - fixed) / at_knee == pytest.approx(WORTH, rel=0.1) or knee.per_token == 0


@given(seconds=st.lists(st.floats(1e-6, 1.0), min_size=len(TOKENS), max_size=len(TOKENS)))
def test_whatever_was_measured_neither_part_is_negative(seconds: list[float]) -> None:
    knee = Knee.fit(TOKENS, seconds)
    assert knee.fixed >= 0 and knee.per_token >= 0 and knee.tokens >= 0


def test_calls_that_no_token_makes_longer_have_no_end_to_their_knee() -> None:
    assert Knee.fit(TOKENS, [1.0] * len(TOKENS)).tokens == np.inf
    assert Knee.fit([16], [1.0]).tokens == np.inf
    assert Knee.fit(TOKENS, [0.01 * tokens for tokens in TOKENS]).tokens == pytest.approx(0)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_plan_neither_cuts_nor_pads_for_fewer_tokens_than_the_knee(tiny_model: TinyModel, noise: float) -> None:
    model = tiny_model("transkimmer")
    rows = falling(model, 0.5, samples=60)
    flat = Planner(model, rows, LineCost(1e-3, 1e-8, noise), (1,), 500, finest=4)
    assert flat.best().cuts == () and len(flat.best().buckets[0]) == 1
    assert "no pruning pays" in describe_knees(flat)[0]
    steep = Planner(model, rows, LineCost(1e-9, 1e-5, noise), (1,), 500, finest=4)
    assert steep.best().cuts and describe_knees(steep)[0].endswith("every token that is dropped pays")


def test_no_bucket_below_the_knee_is_planned(tiny_model: TinyModel) -> None:
    model = tiny_model("transkimmer")
    fixed, per_token = 1e-3, 4e-6  # the knee is at 13 tokens
    planner = Planner(model, falling(model, 0.7, samples=60), LineCost(fixed, per_token, 0.03), (1,), 500, finest=4)
    knee = planner.knee(StageShape("whole", model.config.encoder.layers), 1)
    assert 8 < knee.tokens < 20
    shortest = min(bucket.length for buckets in planner.best().buckets for bucket in buckets)
    assert shortest >= knee.tokens - 4
    assert f"below {knee.tokens:.0f} tokens in flight nothing is gained" in describe_knees(planner)[0]


def test_on_a_cpu_every_token_counts(tiny_model: TinyModel) -> None:
    planner = Planner(tiny_model("ltp"), falling(tiny_model("ltp"), 0.5), LineCost(5e-5, 1e-4), (1, 8), 500)
    assert all(line.endswith("every token that is dropped pays") for line in describe_knees(planner))
