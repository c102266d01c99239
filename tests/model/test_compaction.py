"""The PyTorch operator: threshold, then a stable partition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from plugins.token_compact.operator import surviving, token_compact


def row_by_row(
    score: Tensor, alive: Tensor, threshold: float, protect_first: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """Per sample the rows that stay alive and the order of all rows, written as a person would."""
    survivors, orders = [], []
    for scores, lives in zip(score.tolist(), alive.tolist(), strict=True):
        places = range(len(scores))
        stay = [i for i in places if lives[i] and (scores[i] >= threshold or (protect_first and i == 0))]
        carried = [i for i in places if i in stay or i == 0]
        survivors.append(stay)
        orders.append(carried + [i for i in places if i not in carried])
    return survivors, orders


@st.composite
def states(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden, score, alive, position: scores on a coarse grid, so that ties with thresholds are common."""
    batch, length, width = draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(1, 3))
    cells = batch * length
    grid = st.sampled_from([-1.0, 0.0, 0.25, 0.5, float("nan"), float("inf")])
    score = torch.tensor(draw(st.lists(grid, min_size=cells, max_size=cells))).view(batch, length)
    alive = torch.tensor(draw(st.lists(st.integers(0, 1), min_size=cells, max_size=cells))).view(batch, length)
    hidden = torch.arange(cells * width, dtype=torch.float32).view(batch, length, width)
    position = torch.arange(length, dtype=torch.int32).repeat(batch, 1)
    return hidden, score, alive.to(torch.int32), position


thresholds = st.sampled_from([-2.0, 0.0, 0.25, 0.3, 2.0])


@given(states(), thresholds, st.booleans())
def test_it_is_a_stable_partition(state, threshold: float, protect_first: bool) -> None:
    hidden, score, alive, _ = state
    packed, packed_alive, packed_position, count = token_compact(*state, threshold, 0, protect_first)
    survivors, orders = row_by_row(score, alive, threshold, protect_first)
    assert packed_position.tolist() == orders
    assert [
        [i for i, a in zip(o, r, strict=True) if a] for o, r in zip(orders, packed_alive.tolist(), strict=True)
    ] == (survivors)
    assert count.tolist() == [len(set(stay) | {0}) for stay in survivors]
    for sample, order in enumerate(orders):
        assert torch.equal(packed[sample], hidden[sample, order])


@given(states(), thresholds, st.booleans())
def test_restore_undoes_it(state, threshold: float, protect_first: bool) -> None:
    hidden, score, alive, _ = state
    packed, packed_alive, place, _ = token_compact(*state, threshold, 0, protect_first)
    rows = place.long()[:, :, None].expand_as(packed)
    assert torch.equal(torch.zeros_like(packed).scatter(1, rows, packed), hidden)
    restored = torch.zeros_like(packed_alive).scatter(1, place.long(), packed_alive)
    assert torch.equal(restored.bool(), surviving(score, alive, threshold, protect_first))


@given(states(), thresholds, st.booleans(), st.data())
def test_capacity_cuts_behind_the_first_rows_and_the_count_tells(
    state, threshold: float, protect_first: bool, data: st.DataObject
) -> None:
    capacity = data.draw(st.integers(1, state[0].shape[1]))
    whole = token_compact(*state, threshold, 0, protect_first)
    cut = token_compact(*state, threshold, capacity, protect_first)
    for all_rows, rows in zip(whole[:3], cut[:3], strict=True):
        assert torch.equal(rows, all_rows[:, :capacity])
    assert torch.equal(cut[3], whole[3])


@given(states(), thresholds, thresholds, st.booleans())
def test_two_decisions_equal_the_stricter_one(state, first: float, second: float, protect_first: bool) -> None:
    score = state[1]
    packed, packed_alive, place, _ = token_compact(*state, first, 0, protect_first)
    again = token_compact(packed, score.gather(1, place.long()), packed_alive, place, second, 0, protect_first)
    once = token_compact(*state, max(first, second), 0, protect_first)
    assert torch.equal(again[3], once[3])
    for sample, count in enumerate(once[3].tolist()):
        assert torch.equal(again[2][sample, :count], once[2][sample, :count])
        assert torch.equal(again[0][sample, :count], once[0][sample, :count])


@pytest.mark.parametrize("protect_first", [True, False])
def test_fault_14_a_score_equal_to_the_threshold_is_kept_and_the_next_float_below_is_not(
    protect_first: bool,
) -> None:
    tie = float(np.float32(0.1))  # not representable exactly: the comparison must be in float32
    below = float(np.nextafter(np.float32(tie), np.float32(0)))
    score = torch.tensor([[1.0, tie, below, tie]])
    alive, position = torch.ones(1, 4, dtype=torch.int32), torch.arange(4, dtype=torch.int32)[None]
    _, packed_alive, place, count = token_compact(torch.zeros(1, 4, 2), score, alive, position, tie, 0, protect_first)
    assert place.tolist() == [[0, 1, 3, 2]]
    assert packed_alive.tolist() == [[1, 1, 1, 0]]
    assert count.tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_are_moved_unchanged_in_every_precision(dtype: torch.dtype) -> None:
    hidden = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    hidden[0, 1, 0], hidden[1, 2, 1] = torch.nan, torch.inf
    score = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0]]).repeat(2, 1)
    alive, position = torch.ones(2, 5, dtype=torch.int32), torch.arange(5, dtype=torch.int32).repeat(2, 1)
    packed = token_compact(hidden, score, alive, position, 0.5)[0]
    torch.testing.assert_close(packed, hidden[:, [0, 1, 3, 2, 4]], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("capacity", [0, 3])
def test_the_fake_kernel_and_the_schema_agree_with_the_real_one(capacity: int) -> None:
    alive, position = torch.ones(2, 5, dtype=torch.int32), torch.arange(5, dtype=torch.int32).repeat(2, 1)
    arguments = (torch.randn(2, 5, 4), torch.rand(2, 5), alive, position, 0.5, capacity, True)
    utils = ("test_schema", "test_faketensor")
    assert set(torch.library.opcheck(token_compact, arguments, test_utils=utils).values()) == {"SUCCESS"}
