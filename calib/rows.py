"""Rows of data files, read one at a time: the one reader of training, builds, calibration and runs.

Only a line feed, with or without a carriage return in front of it, ends a line. Lines without a character but blanks
are no rows at the end of a file, and between the rows of .jsonl and .csv.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from calib.conll import conll_rows
from calib.csv_rows import csv_rows
from calib.lines import Line, read_lines
from calib.row import Columns, Row, header_problem, named, refused, shortened
from calib.squad import json_rows
from calib.tables import table_rows
from engines.errors import InputError

_NAMES = re.compile(
    r"(text|sentence|question)s?_?[12ab]?|premise|hypothesis|query|passage|context|answer|document|review|comment|tweet|"
    r"content|title|body|(gold_?)?labels?|class|category|target|sentiment|rating|stars|score|genre|id|idx|index",
    re.IGNORECASE,
)
"""What columns are called in published sets: a first row of such words is a header."""


def read_rows(path: Path, columns: Columns | None = None, labelled: bool = True) -> Iterator[Row]:
    """The rows of a file, read as its ending in FORMATS says, or of a saved set of `datasets`. Raises InputError.

    columns:  the names of the columns; a .tsv file has a header then, and otherwise may do without one.
    labelled: whether a header must name the label, too.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind == "parquet" or path.is_dir():
        yield from table_rows(path, columns or Columns(), labelled)
        return
    assert kind is not None
    try:
        with path.open("rb") as file:
            yield from parse_rows(file, str(path), kind, columns, labelled)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def parse_rows(
    file: BinaryIO, name: str, kind: str, columns: Columns | None = None, labelled: bool = True
) -> Iterator[Row]:
    """The rows of an open file of a kind in FORMATS but parquet. Raises InputError, which calls the file `name`."""
    if kind == "json":
        return json_rows(file, name, columns)
    return _PARSERS[kind](read_lines(file, name), columns, labelled)


def _text(lines: Iterable[Line], columns: Columns | None, labelled: bool) -> Iterator[Row]:
    for line in lines:
        yield Row(line.location, text=line.text, problem=line.problem)


def _jsonl(lines: Iterable[Line], columns: Columns | None, labelled: bool) -> Iterator[Row]:
    names = columns or Columns()
    for line in lines:
        if line.blank:
            continue
        if line.problem is not None:
            yield refused(line, line.problem)
            continue
        try:
            value = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            yield refused(line, f"expected JSON, found {shortened(line.text)!r} ({error})")
            continue
        if isinstance(value, str):
            yield Row(line.location, text=value)
        elif isinstance(value, dict) and names.text in value:
            yield Row(line.location, value.get(names.label), value.get(names.text), value.get(names.text_b))
        else:
            yield refused(line, f'expected {{"{names.text}": "..."}} or "...", found {shortened(line.text)!r}')


def _tsv(lines: Iterable[Line], columns: Columns | None, labelled: bool) -> Iterator[Row]:
    wanted = columns or Columns()
    order = [wanted.label, wanted.text, wanted.text_b]
    by_position = columns is None
    for number, line in enumerate(lines, 1):
        cells = line.text.split("\t")
        if line.problem is not None:
            yield refused(line, line.problem)
        elif number == 1 and (not by_position or _is_header(cells)):
            if (problem := header_problem(cells, wanted, labelled)) is not None:
                yield refused(line, problem)
                return
            order, by_position = [cell.strip() for cell in cells], False
        elif by_position and len(cells) not in (2, 3):
            yield refused(
                line, f"expected label<TAB>text[<TAB>text], found {len(cells)} column(s): {shortened(line.text)}"
            )
        elif not by_position and len(cells) > len(order):
            yield refused(line, f"expected {len(order)} columns ({', '.join(order)}), found {len(cells)}")
        else:
            yield named(line.location, dict(zip(order, cells, strict=False)), wanted)


def _is_header(cells: Sequence[str]) -> bool:
    return len(cells) > 1 and all(_NAMES.fullmatch(cell.strip()) for cell in cells)


FORMATS = {
    **{".jsonl": "jsonl", ".json": "json", ".tsv": "tsv", ".csv": "csv", ".txt": "text", ".parquet": "parquet"},
    **{".conll": "conll", ".bio": "conll"},
}
"""The formats by a file's ending."""
_PARSERS: dict[str, Callable[[Iterable[Line], Columns | None, bool], Iterator[Row]]] = {
    "jsonl": _jsonl,
    "tsv": _tsv,
    "csv": csv_rows,
    "text": _text,
    "conll": conll_rows,
}
