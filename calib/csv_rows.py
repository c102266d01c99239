"""Rows of CSV files, told from the lines that a missing quote makes of them."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence, Set

from calib.lines import Line
from calib.row import Columns, Row, header_problem, named, refused

_RETURN = "\ufdd0"
"""Stands for a carriage return inside a line while Python's csv reads it, for which that ends a row."""
_LABELS = 1000
"""Most different labels by which rows are told from the lines of a text."""
_QUOTES = "close it, write a quote within quotes twice, or give the rows as .jsonl"


def csv_rows(lines: Iterable[Line], columns: Columns | None, labelled: bool) -> Iterator[Row]:
    wanted = columns or Columns()
    csv.field_size_limit(sys.maxsize)
    read: list[Line] = []  # the lines of the row that is being read
    order: list[str] | None = None
    labels: set[str] = set()
    rows = csv.reader(_fed(lines, read), strict=True)
    while True:
        read.clear()
        try:
            cells = [cell.replace(_RETURN, "\r") for cell in next(rows)]
        except StopIteration:
            return
        except csv.Error as error:
            yield _broken(read, str(error))
            return  # where a quote is missing nobody knows where the next row begins
        if order is None:
            order = [cell.strip() for cell in cells]
            if (problem := header_problem(order, wanted, labelled)) is not None:
                yield refused(read[0], problem)
                return
        elif len(cells) > len(order):
            counts = f"expected {len(order)} columns ({','.join(order)}), found {len(cells)}"
            yield refused(read[0], f"{counts}; a text that holds a comma needs quotes")
        elif cells:
            fields = dict(zip(order, cells, strict=False))
            if len(labels) < _LABELS:
                labels.add(fields.get(wanted.label, ""))
            column = order.index(wanted.label) if wanted.label in order else None
            swallowed = next(
                (line for line in read[1:] if column is not None and _is_row(line, order, column, labels)), None
            )
            if swallowed is None:
                yield named(read[0].location, fields, wanted)
            else:
                yield refused(
                    read[0], f"a quote that is opened here swallows {swallowed.location}, a row of its own; {_QUOTES}"
                )


def _fed(lines: Iterable[Line], read: list[Line]) -> Iterator[str]:
    """The lines as Python's csv takes them; those that it has taken are in `read`."""
    for line in lines:
        read.append(line)
        if line.problem is not None:
            raise csv.Error(line.problem)
        yield line.text.replace("\r", _RETURN) + "\n"


def _broken(read: Sequence[Line], error: str) -> Row:
    """The row in which reading ended."""
    if read[-1].problem is not None:
        return refused(read[-1], read[-1].problem)
    if "unexpected end" in error:
        return refused(read[0], f"a quote that is opened here is never closed; {_QUOTES}")
    if "expected after" in error:
        until = "" if len(read) == 1 else f" in {read[-1].location}"
        return refused(read[0], f"a quote that is opened here is closed{until} within a text; {_QUOTES}")
    return refused(read[0], f"expected CSV, found {error}")


def _is_row(line: Line, order: Sequence[str], label: int, labels: Set[str]) -> bool:
    """Whether a line inside a quoted text is a row by itself, with a label that other rows have."""
    try:
        (cells,) = csv.reader([line.text.replace("\r", _RETURN)], strict=True)
    except (csv.Error, ValueError):
        return False
    return len(cells) == len(order) > 1 and bool(cells[label].strip()) and cells[label] in labels
