"""Lines of a file of bytes: bounded, decoded one by one, and ended by a line feed alone."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from engines.errors import InputError

MAX_LINE = 2**24
"""Most bytes of a line."""


@dataclass(frozen=True)
class Line:
    number: int
    text: str = ""
    problem: str | None = None

    @property
    def location(self) -> str:
        return f"line {self.number}"

    @property
    def blank(self) -> bool:
        return self.problem is None and not self.text.strip()


def read_lines(file: BinaryIO, name: str) -> Iterator[Line]:
    """The lines up to the last one that is not blank. Raises InputError for one that is too long to go on."""
    number = first_blank = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if number == 1:
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise InputError(f"{name}: expected UTF-8 text, found UTF-16; save the file as UTF-8")
            line = line.removeprefix(codecs.BOM_UTF8)  # Windows' programs put it in front
        if len(line) > MAX_LINE:
            raise InputError(f"{name}, line {number}: expected at most {MAX_LINE} bytes, found more")
        if not line.strip():
            first_blank = first_blank or number
            continue
        if first_blank:
            yield from map(Line, range(first_blank, number))
            first_blank = 0
        try:
            yield Line(number, line.decode("utf-8").removesuffix("\n").removesuffix("\r"))
        except UnicodeDecodeError as error:
            yield Line(number, problem=f"expected UTF-8 text, found {error}")
