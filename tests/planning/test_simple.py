"""Cuts without a cost model: automatic, by number, by list, and what is refused."""

from __future__ import annotations

import pytest

from engines.errors import InputError
from pipeline.graph.stages import cut_stages, decision_layers
from pipeline.planning.simple import choose_cuts
from tests.conftest import METHODS, TinyModel

ALL_ALIVE = [20.0] * 5  # the real length, then the rows after each of four layers


@pytest.mark.parametrize(
    ("rows", "cuts"),
    [
        (ALL_ALIVE, []),
        ([20, 20, 10, 5, 2], [1, 2, 3]),
        ([20, 20, 19.5, 10, 9.9], [2]),  # 2.5 % and 1 % fewer rows are not worth a cut
        ([20, 20, 19.2, 18.4, 18.3], [2]),  # but what dies adds up until it is
    ],
)
def test_auto_cuts_where_enough_rows_died_since_the_last_cut(
    tiny_model: TinyModel, rows: list[float], cuts: list[int]
) -> None:
    assert choose_cuts(tiny_model("ltp"), "auto", rows) == cuts


def test_auto_never_cuts_where_nothing_decides(tiny_model: TinyModel) -> None:
    assert choose_cuts(tiny_model("dense"), "auto", [20, 10, 5, 2, 1]) == []
    assert 0 not in choose_cuts(tiny_model("ltp"), "auto", [20, 10, 5, 2, 1])


@pytest.mark.parametrize("method", METHODS)
def test_a_number_gives_so_many_stages(tiny_model: TinyModel, method: str) -> None:
    model = tiny_model(method)
    for wanted in range(1, len(decision_layers(model)) + 2):
        cuts = choose_cuts(model, str(wanted), ALL_ALIVE)
        assert len(cut_stages(model, cuts)) == wanted == len(set(cuts)) + 1


def test_stages_are_spread_evenly(tiny_model: TinyModel) -> None:
    assert choose_cuts(tiny_model("transkimmer"), "2", ALL_ALIVE) == [2]
    assert choose_cuts(tiny_model("transkimmer"), "3", ALL_ALIVE) == [1, 2]


@pytest.mark.parametrize(("stages", "cuts"), [("1,3", [1, 3]), (" 3 , 1, 3", [1, 3]), ("2,", [2])])
def test_a_list_names_the_layers(tiny_model: TinyModel, stages: str, cuts: list[int]) -> None:
    assert choose_cuts(tiny_model("ltp"), stages, ALL_ALIVE) == cuts


@pytest.mark.parametrize("stages", ["", ",", "many", "-1", "1.5", "1;2", "²", "1,x"])
def test_what_is_neither_auto_nor_a_number_nor_layers_is_refused(tiny_model: TinyModel, stages: str) -> None:
    with pytest.raises(InputError, match="expected auto, a number of stages, or layers such as 1,3"):
        choose_cuts(tiny_model("ltp"), stages, ALL_ALIVE)


@pytest.mark.parametrize("stages", ["0", "5"])
def test_an_impossible_number_says_what_is_possible(tiny_model: TinyModel, stages: str) -> None:
    with pytest.raises(InputError, match=f"stages {stages}: this ltp model has 3 decision points, so 1 to 4 stages"):
        choose_cuts(tiny_model("ltp"), stages, ALL_ALIVE)


def test_a_token_level_head_is_cut_at_every_decision(tiny_model: TinyModel) -> None:
    model = tiny_model("ltp", "tagging")
    assert choose_cuts(model, "auto", ALL_ALIVE) == [1, 2, 3]
    with pytest.raises(InputError, match="tagging head is cut at every decision; use auto"):
        choose_cuts(model, "2", ALL_ALIVE)
