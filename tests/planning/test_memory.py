"""A limit of memory: fewer profiles, never more memory, and an error where nothing is small enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.buckets import Bucket
from engines.errors import InputError
from engines.memory import PROFILE, engine_bytes
from pipeline.planning.memory import best_within
from pipeline.planning.plan import ChosenPlan, Planner
from tests.conftest import TinyModel
from tests.planning.test_plan import RowCost, falling

WEIGHTS = 3 << 20


@given(limit=st.integers(1, 60), share=st.floats(0.3, 1.0))
def test_a_plan_keeps_to_it_and_is_the_best_where_it_is_no_limit(
    tiny_model: TinyModel, limit: int, share: float
) -> None:
    model = tiny_model("ltp")
    planner = Planner(model, falling(model, share), RowCost(1), (1, 8), 500)
    encoder = model.config.encoder

    def bytes_of(plan: ChosenPlan) -> int:
        return sum(engine_bytes(encoder, "cpu", "fp32", WEIGHTS, buckets) for buckets in plan.buckets)

    if limit << 20 >= bytes_of(planner.best()):
        assert best_within(planner, limit << 20, bytes_of) == planner.best()
    elif limit << 20 < bytes_of(planner.given([], [[model.config.max_length]])):
        with pytest.raises(InputError, match=f"--memory {limit}: expected at least [0-9]+ MiB"):
            best_within(planner, limit << 20, bytes_of)
    else:
        plan = best_within(planner, limit << 20, bytes_of)
        assert bytes_of(plan) <= limit << 20
        assert all(max(b.length for b in held) == model.config.max_length for held in plan.buckets)


def test_a_profile_and_a_narrower_precision_cost_what_they_are_said_to(tiny_model: TinyModel) -> None:
    encoder, bucket = tiny_model("ltp").config.encoder, Bucket(batch=8, length=32)
    one, shorter = [bucket], [Bucket(batch=1, length=32), bucket]
    wide = engine_bytes(encoder, "cpu", "fp32", WEIGHTS, one)
    assert engine_bytes(encoder, "cpu", "fp32", WEIGHTS, shorter) - wide == PROFILE
    assert wide - engine_bytes(encoder, "tensorrt", "fp32", WEIGHTS, one) == WEIGHTS, "no second copy of the weights"
    assert engine_bytes(encoder, "cpu", "bf16", WEIGHTS, one) < wide
