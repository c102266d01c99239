"""Rows of CoNLL files: a word and its tag in a line, among other columns, and a blank line behind each sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from calib.lines import Line
from calib.row import Columns, Row, refused

_DOCUMENT = "-DOCSTART-"


def conll_rows(lines: Iterable[Line], columns: Columns | None, labelled: bool) -> Iterator[Row]:
    """A row for each sentence: its words, and their tags, which are the last of two or more columns.

    Columns are parted by a tab or by blanks. Lines that start with # in front of a sentence, and those of -DOCSTART-,
    are none of its words.
    """
    words: list[str] = []
    tags: list[str] = []
    first: Line | None = None
    for line in lines:
        cells = line.text.split("\t") if "\t" in line.text else line.text.split()
        if line.problem is not None:
            yield refused(line, line.problem)
        elif line.blank or cells[0].strip() == _DOCUMENT:
            if first is not None:
                yield Row(first.location, tags, words)
            words, tags, first = [], [], None
        elif line.text.startswith("# ") and not words:
            continue
        elif len(cells) < 2:
            yield refused(line, f"expected a word and its tag, found {line.text[:80]!r}")
        else:
            first = first or line
            words.append(cells[0].strip())
            tags.append(cells[-1].strip())
    if first is not None:
        yield Row(first.location, tags, words)
