"""A row of a data file: a label, a text and perhaps a second one, before anything is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calib.lines import Line
from engines.tokenization import Text, text_of, text_problem

_SHOWN = 80
"""Characters of a row that an error shows."""


@dataclass(frozen=True)
class Columns:
    """What the columns, or keys, of the label and the texts are called."""

    label: str = "label"
    text: str = "text"
    text_b: str = "text_b"

    @classmethod
    def given(cls, label: str | None, text: str | None, text_b: str | None) -> Columns | None:
        """Those that are given, with the usual names of the others; None where none is."""
        named = {"label": label, "text": text, "text_b": text_b}
        chosen = {name: value for name, value in named.items() if value is not None}
        return cls(**chosen) if chosen else None


@dataclass(frozen=True)
class Row:
    """The fields of a row by name, or what is wrong with it. `location` says where it is in its file."""

    location: str
    label: object = None
    text: object = None
    text_b: object = None
    problem: str | None = None

    @property
    def shown(self) -> str:
        """The fields, for an error."""
        fields = {"label": self.label, "text": self.text, "text_b": self.text_b}
        return shortened({name: value for name, value in fields.items() if value is not None})


def named(location: str, fields: dict, columns: Columns) -> Row:
    """The row of fields that have the file's own names."""
    return Row(location, fields.get(columns.label), fields.get(columns.text), fields.get(columns.text_b))


def refused(line: Line, problem: str) -> Row:
    """The row that a line would be, but for a problem."""
    return Row(line.location, problem=problem)


def text_of_row(row: Row) -> Text:
    """The text or the pair of a row. Raises ValueError, which says what is wrong with it."""
    if row.problem is not None:
        raise ValueError(row.problem)
    text, second = row.text, row.text_b
    if not isinstance(text, str):
        raise ValueError(f"expected a text, named text, found {row.shown or 'none'}")
    if not isinstance(second, str | None):
        raise ValueError(f"expected a second text or none in text_b, found {shortened(second)}")
    if (problem := text_problem((text, second or ""))) is not None:
        raise ValueError(problem)
    if not (text + (second or "")).strip():  # the runner takes none either, and would tell it late in a build
        raise ValueError("expected at least one word, found an empty text")
    return text_of(text, second)


def shortened(value: object) -> str:
    """A value as an error shows it."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def header_problem(cells: Sequence[str], wanted: Columns, labelled: bool) -> str | None:
    """Why the columns of a file do not name a text, and a label where one is needed; None if they do."""
    names = [cell.strip() for cell in cells]
    for name in (wanted.label, wanted.text, wanted.text_b):
        if names.count(name) > 1:
            return f"the header names {name} twice"
    if wanted.text in names and (wanted.label in names or not labelled):
        return None
    remedy = "; rename the columns, or name them with --label and --text" if labelled else "; rename the columns"
    expected = f"a label and a text, named {wanted.label} and {wanted.text}" if labelled else f"a column {wanted.text}"
    return f"expected {expected}, found the header {shortened(', '.join(names))}{remedy}"
