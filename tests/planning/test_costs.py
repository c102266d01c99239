"""Cost tables between and beyond what was measured, and the roofline of a data sheet."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import InputError
from pipeline.model.config import EncoderConfig
from pipeline.planning.costs import DEVICES, AnalyticCost, CostTable, Faster, StageShape

TABLE = CostTable(
    processor="some",
    tools={},
    lengths=[10, 20],
    layers={"whole": 6, "first": 1, "middle": 1, "last": 1},
    alone_seconds={"whole": [7.0, 13.0], "first": [2.0, 3.0], "middle": [1.5, 2.5], "last": [1.0, 2.0]},
    together_seconds={kind: {1: [1.0, 2.0], 8: [8.0, 16.0]} for kind in ("whole", "first", "middle", "last")},
)


def test_between_lengths_and_layers_it_is_linear() -> None:
    assert TABLE.alone(StageShape("first", 1), 10) == 2.0
    assert TABLE.alone(StageShape("first", 1), 15) == 2.5
    # Five more layers cost 5 s at length 10 and 10 s at length 20, so that one costs 1 s and 2 s.
    assert TABLE.alone(StageShape("middle", 3), 10) == pytest.approx(1.5 + 2 * 1.0)
    assert TABLE.alone(StageShape("middle", 3), 20) == pytest.approx(2.5 + 2 * 2.0)
    assert TABLE.together(StageShape("last", 1), 8, 20) == 16.0


def test_between_and_beyond_batches_it_is_linear() -> None:
    last = StageShape("last", 1)
    assert [TABLE.together(last, batch, 10) for batch in (1, 3, 8, 22)] == [1.0, 3.0, 8.0, 22.0]
    dearer = {kind: {1: [1.0, 2.0], 8: [10.1, 1.0]} for kind in TABLE.together_seconds}
    table = TABLE.model_copy(update={"together_seconds": dearer})
    assert table.together(last, 16, 10) == pytest.approx(10.1 + 8 * 1.3)
    assert table.together(last, 16, 20) == 1.0, "more samples never take less time"
    single = TABLE.model_copy(update={"together_seconds": {kind: {1: [1.0, 2.0]} for kind in dearer}})
    assert single.together(last, 4, 20) == 8.0


def test_where_engines_are_chosen_each_call_costs_what_the_faster_one_does() -> None:
    other = TABLE.model_copy(
        update={
            "alone_seconds": {**TABLE.alone_seconds, "first": [3.0, 2.5]},
            "together_seconds": {kind: {1: [2.0, 1.0], 8: [9.0, 9.0]} for kind in TABLE.together_seconds},
        }
    )
    faster, first = Faster([TABLE, other]), StageShape("first", 1)
    assert [faster.alone(first, length) for length in (10, 20)] == [2.0, 2.5]
    assert [faster.together(first, 8, length) for length in (10, 20)] == [8.0, 9.0]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(TABLE.model_dump_json())
    assert CostTable.read(tmp_path / "table.json") == TABLE
    (tmp_path / "table.json").write_text('{"schema_version": 1}')
    with pytest.raises(InputError, match="schema_version"):
        CostTable.read(tmp_path / "table.json")
    with pytest.raises(InputError, match="expected a cost table"):
        CostTable.read(tmp_path / "missing.json")


@pytest.mark.parametrize("device", DEVICES)
def test_more_work_never_takes_less_time(device: str) -> None:
    encoder = EncoderConfig(
        family="bert", vocab_size=9, hidden_size=384, layers=6, heads=12, intermediate_size=1536, max_positions=512
    )
    cost = AnalyticCost(DEVICES[device], encoder)
    stage, deeper = StageShape("middle", 1), StageShape("middle", 2)
    assert cost.alone(stage, 64) < cost.alone(deeper, 64) <= cost.alone(deeper, 128)
    assert 0 < cost.together(stage, 1, 64) <= cost.together(stage, 8, 64) <= 8 * cost.together(stage, 1, 64)
