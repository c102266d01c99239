"""What is held out of a set."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from calib.data import Example, read_data
from calib.held_out import hold_out, write_rows

EXAMPLES = st.lists(st.builds(Example, st.text("ab ", min_size=1, max_size=5), st.sampled_from("xyz")), max_size=60)


@given(EXAMPLES, st.randoms(use_true_random=False))
def test_every_row_is_on_one_side_and_its_order_does_not_matter(examples: list[Example], chance: random.Random) -> None:
    train, held = hold_out(examples)
    assert Counter(train) + Counter(held) == Counter(examples)
    assert not {e.content for e in train} & {e.content for e in held}, "rows of one text stay together"
    assert [e for e in examples if e in set(held)] == held
    shuffled = chance.sample(examples, len(examples))
    assert Counter(hold_out(shuffled)[1]) == Counter(held)


def test_every_label_loses_its_share() -> None:
    examples = [Example(f"text {n}", "rare" if n % 20 == 0 else "common") for n in range(400)]
    assert Counter(e.label for e in hold_out(examples)[1]) == {"common": 38, "rare": 2}
    assert len(hold_out(examples, most=10)[1]) in range(9, 12)
    assert hold_out([Example("alone", "x"), Example("also", "y")])[1] == []


def test_amounts_are_one_label() -> None:
    assert len(hold_out([Example(f"text {n}", f"{n / 10}") for n in range(100)])[1]) == 10


def test_rows_are_read_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for examples in ([Example("a\u2028b", "x", "c"), Example("ü", "y")], [Example("a", ""), Example("b", "")]):
        write_rows(path, examples)
        assert read_data(str(path), unlabelled=True).examples == examples
    before = path.stat().st_mtime_ns
    write_rows(path, examples)
    assert path.stat().st_mtime_ns == before


@given(
    st.lists(
        st.builds(Example, st.text("abc", min_size=1, max_size=2), st.sampled_from("01"), st.text("pq")), max_size=60
    )
)
def test_passages_of_one_query_stay_together(examples: list[Example]) -> None:
    train, held = hold_out(examples, "ranking")
    assert Counter(train) + Counter(held) == Counter(examples)
    assert not {e.text for e in train} & {e.text for e in held}
