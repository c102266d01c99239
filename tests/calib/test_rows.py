"""Rows of files: what ends a line, what a quote may not swallow, headers, and bytes that are no file of the kind."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.data import Example, read_examples
from calib.row import Columns, Row, text_of_row
from calib.rows import parse_rows, read_rows
from engines.errors import InputError


def rows(content: str | bytes, kind: str, **options) -> list[Row]:
    data = content if isinstance(content, bytes) else content.encode()
    return list(parse_rows(io.BytesIO(data), "data", kind, **options))


def fields(content: str | bytes, kind: str, **options) -> list[tuple]:
    return [(row.location, row.label, row.text, row.text_b) for row in rows(content, kind, **options)]


# Without a quote or a tab, which need no escape in any format; with all that some programs take for the end of a line.
LINE = st.text(st.sampled_from('ab,"é映\r\v\f\x1c\x85\u2028 '), min_size=1, max_size=12).filter(
    lambda text: text.strip() and not text.endswith("\r")
)
LABELS = st.sampled_from(["no", "yes", "3", "é"])
EXAMPLES = st.lists(st.builds(Example, LINE, LABELS, st.none() | LINE), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


def write(path: Path, examples: list[Example], end: str = "\n") -> None:
    table = [[e.label, e.text, e.text_b or ""] for e in examples]
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator=end).writerows([["label", "text", "text_b"], *table])
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"label": e.label, "text": e.text, "text_b": e.text_b}) for e in examples]
        path.write_bytes("".join(line + end for line in lines).encode())
    else:
        path.write_bytes("".join("\t".join(row) + end for row in table).encode())


@given(examples=EXAMPLES, end=st.sampled_from(["\n", "\r\n"]), suffix=st.sampled_from([".csv", ".jsonl", ".tsv"]))
def test_every_format_gives_what_was_written(folder: Path, examples: list[Example], end: str, suffix: str) -> None:
    path = folder / f"written{suffix}"
    write(path, examples, end)
    assert read_examples(str(path)) == examples


@given(
    examples=st.lists(
        st.builds(Example, st.text('ab," ', min_size=1, max_size=8).map("w".__add__), LABELS), max_size=8
    ),
    place=st.integers(0, 200),
    take=st.booleans(),
)
def test_a_quote_too_many_or_too_few_never_loses_a_row(
    folder: Path, examples: list[Example], place: int, take: bool
) -> None:
    path = folder / "quotes.csv"
    examples = [Example("first", "no"), Example("second", "yes"), *examples]
    write(path, examples)
    content = path.read_text("utf-8")
    place = content.index("\n") + 1 + place % (len(content) - content.index("\n") - 1)
    if take and content[place] == '"':
        path.write_text(content[:place] + content[place + 1 :], "utf-8")
    else:
        path.write_text(content[:place] + '"' + content[place:], "utf-8")
    try:
        found = read_examples(str(path))
    except InputError as error:
        assert "line " in str(error)
    else:
        assert len(found) == len(examples)


@given(content=st.binary(max_size=60), kind=st.sampled_from(["jsonl", "tsv", "csv", "text"]), head=st.booleans())
def test_bytes_of_any_kind_are_rows_or_an_input_error(content: bytes, kind: str, head: bool) -> None:
    try:
        found = rows((b"label,text\n" if head else b"") + content, kind)
    except InputError:
        return
    for row in found:
        try:
            text_of_row(row)
        except ValueError as error:
            assert str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("\ud83d"),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["text", "label", "answer_start"]), inner)
    ),
    max_leaves=4,
)


@given(
    content=st.lists(st.fixed_dictionaries({"label": JSON, "text": JSON | st.just("a")}) | JSON, min_size=1, max_size=3)
)
def test_json_of_any_kind_is_examples_or_an_input_error(folder: Path, content: list) -> None:
    path = folder / "any.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    try:
        found = read_examples(str(path))
    except InputError as error:
        assert "line " in str(error) and len(str(error)) < 8000
    else:
        for example, row in zip(found, content, strict=True):
            words, label = row["text"], row["label"]
            assert example.text == (words if isinstance(words, str) else " ".join(words))
            assert label is not None and (example.target is not None) == isinstance(label, list | dict)
            (example.text + example.label).encode()


def test_empty_lines_at_the_end_are_no_rows_of_any_format() -> None:
    for kind, content in {
        "tsv": "no\ta\n",
        "csv": "label,text\nno,a\n",
        "jsonl": '{"text": "a"}\n',
        "text": "a\n",
    }.items():
        assert len(rows(content + "\n \r\n\n", kind)) == len(rows(content, kind)) == 1


def test_empty_lines_between_rows() -> None:
    assert [place for place, *_ in fields('"a"\n\n"b"\n', "jsonl")] == ["line 1", "line 3"]
    assert [place for place, *_ in fields("text\na\n\nb\n", "csv", labelled=False)] == ["line 2", "line 4"]
    assert rows("no\ta\n\nno\tb\n", "tsv")[1].problem == "expected label<TAB>text[<TAB>text], found 1 column(s): "
    with pytest.raises(ValueError, match="found an empty text"):
        text_of_row(rows("a\n\nb\n", "text")[1])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('0,w1\n1,"w2 w3\n0,w4\n', "line 3: a quote that is opened here is never closed"),
        ('0,w1\n1,"w2 w3\n0,"w4"\n', "line 3: a quote that is opened here is closed in line 4 within a text"),
        ('0,w1\n1,"w2 w3\n0,w4"\n1,w5\n', "line 3: a quote that is opened here swallows line 4, a row of its own"),
        ('0,"w1 "so" w2"\n', "line 2: a quote that is opened here is closed within a text"),
        ('0,"w1 \\"so\\" w2"\n', "line 2: a quote that is opened here is closed within a text"),
    ],
)
def test_a_quote_that_is_wrong_is_named_by_the_line_that_opens_it(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text("label,text\n" + content, "utf-8")
    with pytest.raises(InputError) as error:
        read_examples(str(path))
    assert problem in str(error.value)


def test_a_text_of_paragraphs_with_commas_is_one_text() -> None:
    content = 'label,text\nno,a\nyes,"One, two\nthree, four\n\nfive,six"\nno,b\n'
    assert [row.text for row in rows(content, "csv")] == ["a", "One, two\nthree, four\n\nfive,six", "b"]


@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_columns_are_found_by_their_names(kind: str) -> None:
    tab = "\t" if kind == "tsv" else ","
    named = tab.join(["id", "review", "stars", "reply"]) + "\n" + tab.join(["7", "good", "5", "thanks"]) + "\n"
    assert fields(named, kind, columns=Columns("stars", "review", "reply")) == [("line 2", "5", "good", "thanks")]
    usual = tab.join(["text", "label"]) + "\n" + tab.join(["good", "5"]) + "\n"
    assert fields(usual, kind) == [("line 2", "5", "good", None)]
    for names in (Columns("stars", "body"), Columns("grade", "review")):
        assert "found the header id, review, stars, reply; rename" in (
            rows(named, kind, columns=names)[0].problem or ""
        )
    assert "names text twice" in (rows(tab.join(["text", "label", "text"]) + "\n", kind)[0].problem or "")


def test_a_header_of_other_words_in_a_tsv_file_is_no_example() -> None:
    for header in ("sentence\tlabel", "Premise\tHypothesis\tgold_label", "text\tstars"):
        (row,) = rows(header + "\nw1\tno\n", "tsv")
        assert "expected a label and a text, named label and text, found the header" in (row.problem or "")
    assert fields("good\tsentence\nno\ttext\n", "tsv") == [
        ("line 1", "good", "sentence", None),
        ("line 2", "no", "text", None),
    ]


def test_columns_of_parquet_are_found_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"review": "a", "stars": 2}]), path)
    assert list(read_rows(path, Columns("stars", "review"))) == [Row("row 1", 2, "a")]
    with pytest.raises(InputError, match="found the header review, stars"):
        list(read_rows(path))


def test_a_file_of_another_encoding_says_so(tmp_path: Path) -> None:
    path = tmp_path / "data.tsv"
    path.write_text("no\ta\n", "utf-16")
    with pytest.raises(InputError, match="expected UTF-8 text, found UTF-16; save the file as UTF-8"):
        read_examples(str(path))


def test_a_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib.lines.MAX_LINE", 10)
    assert len(rows("a" * 9 + "\n" + "b" * 10, "text")) == 2
    with pytest.raises(InputError, match="data, line 2: expected at most 10 bytes"):
        rows("a\n" + "b" * 11, "text")
