"""Labels that are more than one name: how they are read, and how answers to them are measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.correlation import ranks, spearman
from calib.data import Example, examples_digest, label_names, read_data
from calib.metric import labelled, measure
from calib.overlap import answer_f1, exact_match, macro_f1, micro_f1
from calib.summary import oddities, summary
from calib.targets import Answers, Labels, Spans, target_names
from engines.errors import InputError
from engines.head import Head


def read(tmp_path: Path, *rows: dict) -> list[Example]:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return read_data(str(path)).examples


def test_a_text_may_have_several_labels_or_none(tmp_path: Path) -> None:
    found = read(tmp_path, {"text": "x", "label": ["b", "a"]}, {"text": "y", "label": []})
    assert [example.target for example in found] == [Labels(("b", "a")), Labels(())]
    assert label_names(found) == ["a", "b"]
    assert examples_digest(found) != examples_digest([found[0], Example("y", "", target=Labels(("a",)))])


def test_spans_are_marked_in_characters_or_by_a_tag_for_each_word(tmp_path: Path) -> None:
    rows = (
        {"text": "Anna met Bob", "label": [{"start": 9, "end": 12, "label": "PER"}, [0, 4, "PER"]]},
        {"text": ["in", "New", "York", "City"], "label": ["O", "B-LOC", "I-LOC", "B-LOC"]},
        {"text": "nobody", "label": []},
    )
    found = [example.target for example in read(tmp_path, *rows)]
    assert found[0] == Spans(((0, 4, "PER"), (9, 12, "PER")))
    assert found[1] == Spans(((3, 11, "LOC"), (12, 16, "LOC")))
    assert found[2] == Spans(())
    assert target_names([target for target in found if target]) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def test_answers_are_as_in_squad(tmp_path: Path) -> None:
    pair = {"text": "where?", "text_b": "She lives in Rome."}
    found = read(
        tmp_path,
        {**pair, "label": {"text": ["Rome", "in Rome"], "answer_start": [13, 10]}},
        {**pair, "label": [{"text": "Rome", "answer_start": 13}]},
        {**pair, "label": {"text": [], "answer_start": []}},
    )
    assert [example.target for example in found] == [
        Answers(((13, "Rome"), (10, "in Rome"))),
        Answers(((13, "Rome"),)),
        Answers(()),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x", "label": ["a"]}, {"text": "y", "label": "a"}], "found one label in line 2; write"),
        ([{"text": "x", "label": ["a"]}, {"text": "y", "label": ["A"]}], "differ by blanks or case only"),
        ([{"text": "x", "label": ["a"]}, {"text": "y", "label": [[0, 1, "b"]]}], "one kind of labels"),
        ([{"text": "x", "label": [[0, 9, "b"]]}], "a span within the 1 characters"),
        ([{"text": ["x", "y"], "label": ["O"]}], "a tag such as B-PER for each of 2 words"),
        ([{"text": ["x"], "label": [3]}], "a tag such as B-PER for each of 1 words"),
        ([{"text": ["x", "\ud83d"], "label": ["O", "O"]}], "an unpaired surrogate at character 2"),
        ([{"text": ["x"], "label": ["B-\ud83d"]}], "an unpaired surrogate at character 2"),
        ([{"text": "x", "text_b": "y z", "label": {"text": ["z"], "answer_start": [0]}}], "at character 0, found 'y'"),
        ([{"text": "x", "label": {"name": 1}}], "found an object with the keys name"),
    ],
)
def test_labels_that_mean_nothing_are_refused(tmp_path: Path, rows: list[dict], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, *rows)


def test_what_was_taken_is_said() -> None:
    several = [Example("x", "", target=Labels(("a", "b"))), Example("y", "", target=Labels(("a",)))]
    assert "several labels a text: a (2), b (1);" in summary("data", several) and not oddities(several, False)
    spans = [Example("Bob", "", target=Spans(((0, 3, "PER"),)))]
    assert "entities: PER (1);" in summary("data", spans)
    asked = [Example("who?", "", "Bob", target=Answers(((0, "Bob"),))), Example("who?", "", "x", target=Answers(()))]
    assert "2 rows pairs, questions, 1 of them without an answer;" in summary("data", asked)


def test_entities_are_counted_as_by_seqeval() -> None:
    """The example of seqeval's own documentation: one of two entities."""
    assert micro_f1([[(2, 6, "MISC")], [(0, 2, "PER")]], [[(3, 6, "MISC")], [(0, 2, "PER")]]) == 0.5
    assert micro_f1([[]], [[]]) == 1.0


def test_labels_count_alike_or_by_their_number() -> None:
    found, wanted = [["a"], ["a"], ["a", "b"]], [["a"], ["a"], ["b"]]
    assert micro_f1(found, wanted) == pytest.approx(6 / 7)
    assert macro_f1(found, wanted, ["a", "b", "c"]) == pytest.approx((0.8 + 1) / 2)


@pytest.mark.parametrize(
    ("found", "wanted", "exact", "f1"),
    [
        ("The Rome.", ["rome"], 1.0, 1.0),
        ("in Rome", ["Rome", "Paris"], 0.0, 2 / 3),
        ("", [], 1.0, 1.0),
        ("Rome", [], 0.0, 0.0),
        ("", ["Rome"], 0.0, 0.0),
    ],
)
def test_answers_are_judged_as_by_squad(found: str, wanted: list[str], exact: float, f1: float) -> None:
    assert exact_match(found, wanted) == exact and answer_f1(found, wanted) == pytest.approx(f1)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_equal_values_share_the_mean_of_their_ranks(values: list[int]) -> None:
    assert ranks(values) == [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def test_a_regression_is_measured_by_both_correlations() -> None:
    examples = [Example("a", "1"), Example("b", "2"), Example("c", "4")]
    answers = [np.array([value]) for value in (1.0, 10.0, 100.0)]
    found = measure(Head(kind="regression", labels=["value"]), answers, examples)
    assert found["spearman"] == pytest.approx(1.0) and 0.9 < found["pearson"] < 0.99
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)


def test_a_metric_needs_the_labels_of_the_head() -> None:
    many = Head(kind="multi_label", labels=["a", "b"])
    assert labelled(many, [Example("x", "", target=Labels(("a",)))])
    assert not labelled(many, [Example("x", "", target=Labels(("c",)))])
    assert not labelled(many, [Example("x", "a")])
    assert not labelled(Head(labels=["a", "b"]), [Example("x", "", target=Labels(("a",)))])
    assert labelled(Head(kind="embedding", size=2), [Example("x", "a")])
    agreed = measure(
        Head(kind="embedding", size=2), [np.array([3.0, 4.0])], [Example("x", "")], (), [np.array([0.0, 1.0])]
    )
    assert agreed == {"cosine": pytest.approx(0.8), "least_cosine": pytest.approx(0.8)}
