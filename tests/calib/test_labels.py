"""Labels: what is none, classes or amounts, spellings, and those of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.data import Example, label_names, read_data, read_examples, relabelled
from calib.labels import are_amounts, fitted, read_label, refuse_alike, refuse_no_classes, spelling, whole_numbers
from calib.summary import oddities, summary
from engines.errors import InputError


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "found none"),
        ("", "an empty one"),
        (" \t", "an empty one"),
        (float("nan"), "found nan"),
        ("NaN", "found NaN"),
        (float("inf"), "found inf"),
        (["a"], "found a list; a text gets one label"),
        ([], "found a list"),
        ({"a": 1}, "found an object"),
        ("[1, 0, 1]", "written as a list"),
        ("['a', 'b']", "written as a list"),
        ('{"a": 1}', "written as a list or an object"),
        ("\ud83d", "an unpaired surrogate at 0"),
        ("word " * 60, "at most 256 characters, found 300; is it the text?"),
        (b"a", "found bytes"),
    ],
)
def test_what_is_no_label_is_refused(value: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("[", r"\[")):
        read_label(value)


@pytest.mark.parametrize(("value", "label"), [(1, "1"), (0.5, "0.5"), (True, "True"), ("a b", "a b"), (" a", " a")])
def test_what_is_a_label(value: object, label: str) -> None:
    assert read_label(value) == label


@given(st.lists(st.integers(-5, 5), min_size=1))
def test_whole_numbers_are_classes_however_they_are_written(values: list[int]) -> None:
    labels = [str(float(value)) for value in values]
    assert not are_amounts(labels)
    assert list(whole_numbers(labels)) == [str(value) for value in values]
    assert are_amounts([*labels, "0.5"]) and whole_numbers([*labels, "0.5"]) == [*labels, "0.5"]
    assert whole_numbers([*labels, "x"]) == [*labels, "x"]


def test_labels_of_a_file_as_pandas_writes_them_are_the_same_classes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,text\n0.0,a\n1.0,b\n", "utf-8")
    (tmp_path / "b.jsonl").write_text('{"label": 0, "text": "a"}\n{"label": 1, "text": "b"}\n', "utf-8")
    assert read_examples(str(tmp_path / "a.csv")) == read_examples(str(tmp_path / "b.jsonl"))


@given(
    names=st.lists(st.sampled_from(["no", "yes", "perhaps", "straße", "é"]), min_size=2, unique=True),
    change=st.sampled_from([str.upper, str.title, " {}".format, "{} ".format, "{}\xa0".format]),
)
def test_labels_that_look_alike_are_refused(names: list[str], change) -> None:
    refuse_alike({name: ["line 1"] for name in names}, "data")
    other = change(names[0])
    with pytest.raises(InputError, match="differ by blanks or case only"):
        refuse_alike({name: ["line 1"] for name in [*names, other]}, "data")
    assert fitted([other, names[1]], names)[0] == names[:2] and spelling(other) == spelling(names[0])


def test_labels_that_look_alike_are_named_with_their_first_row(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("label,text\nyes,a\nno,b\nyes ,c\nyes,d\n", "utf-8")
    with pytest.raises(InputError) as error:
        read_examples(str(path))
    assert "'yes' (2 rows, the first in line 2), 'yes ' (1 rows, the first in line 4)" in str(error.value)


@given(names=st.lists(st.text("abc", min_size=1), min_size=2, max_size=12, unique=True), data=st.data())
def test_whole_numbers_are_a_models_classes_by_index(names: list[str], data) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1))
    labels, assumed = fitted([str(index) for index in chosen], names)
    assert labels == [names[index] for index in chosen] and "by index" in (assumed or "")
    assert fitted(labels, names) == (labels, None)
    assert fitted([str(len(names)), "0"], names) == ([str(len(names)), "0"], None)


def test_a_model_of_numbers_keeps_them() -> None:
    assert fitted(["1", "2"], ["2", "1"]) == (["1", "2"], None)
    assert fitted(["0", "0"], ["value"]) == (["0", "0"], None)
    assert fitted(["no", "never"], ["no", "yes"]) == (["no", "never"], None)
    assert relabelled([Example("a", "YES")], ["no", "yes"])[0] == [Example("a", "yes")]


def test_classes_that_are_none_are_refused() -> None:
    refuse_no_classes(["a", "b"], "data")
    with pytest.raises(InputError, match="at least two classes, found only one label, 'a', in all 3 rows"):
        refuse_no_classes(["a"] * 3, "data")
    with pytest.raises(InputError, match=r"found 200 labels in 300 rows.*is the label in another column") as error:
        refuse_no_classes([f"{'long ' * 40}{n % 200}" for n in range(300)], "data")
    assert len(str(error.value)) < 1000


def test_classes_are_in_order(tmp_path: Path) -> None:
    assert label_names([Example("a", label) for label in ("10", "9", "-1", "9")]) == ["-1", "9", "10"]
    assert label_names([Example("a", label) for label in ("10", "9", "x")]) == ["10", "9", "x"]
    (tmp_path / "labels.txt").write_text("positive\nnegative\n\n", "utf-8")
    (tmp_path / "data.tsv").write_text("1\ta\n0\tb\n", "utf-8")
    data = read_data(str(tmp_path / "data.tsv"))
    assert data.classes == ["positive", "negative"] and [e.label for e in data.examples] == ["negative", "positive"]
    (tmp_path / "labels.txt").write_text("positive\npositive\n\nx\n", "utf-8")
    with pytest.raises(InputError, match=r"labels\.txt: 2 problem"):
        read_data(str(tmp_path / "data.tsv"))


def test_a_summary_says_rows_classes_and_lengths() -> None:
    examples = [Example("abc", "no"), Example("a", "yes", "bcde"), Example("ab", "yes")]
    said = "3 rows (1 of them pairs), classification of 2 classes: yes (2), no (1); 2 to 5 characters, 3 at the median"
    assert summary("data", examples) == f"data: {said}"
    values = [Example("a", "0.5"), Example("b", "-2")]
    assert "2 rows, regression of values from -2 to 0.5, mean -0.75" in summary("data", values, "regression")
    pairs = [Example("who?", "1", "Anna left."), Example("who?", "0", "It rained."), Example("when?", "1", "In May.")]
    said = "3 rows pairs, ranking for 2 queries, relevance from 0 to 1, mean 0.6667;"
    assert said in summary("data", pairs, "ranking")


def test_what_is_odd_is_said() -> None:
    fair = [Example(f"text {n}", "ab"[n % 2]) for n in range(12)]
    assert oddities(fair, False) == []
    assert oddities(fair[::2], False) == ["only one label, 'a', in all rows"]
    assert oddities([*fair, Example("rare", "c")], False) == ["classes of one row: c"]
    assert oddities([*fair, Example("text 0", "b")], False) == ["1 texts stand in several rows, with different labels"]


def test_an_error_about_long_labels_is_short(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    rows = [{"label": " ".join(f"w{i}" for i in range(n % 60, n % 60 + 50)), "text": "a"} for n in range(5000)]
    rows += [{"label": row["label"].upper(), "text": "a"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(InputError) as error:
        read_examples(str(path))
    assert len(str(error.value)) < 8000
