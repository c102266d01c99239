"""Labels: what can be one, whether they are classes or amounts, and how they fit those of a model."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from engines.errors import InputError

SHOWN = 20
"""Most labels that an error or a report lists."""
_LONGEST = 256
"""Most characters of a label: a longer one is a text in the wrong column."""
_MANY = 100
"""So many classes, for more than half of the rows, are no classes."""


def read_label(value: object) -> str:
    """A label of a file as text. Raises ValueError for anything else, such as a list or NaN."""
    if value is None:
        raise ValueError("expected a label, found none")
    if isinstance(value, list | tuple | dict | set):
        kind = "an object" if isinstance(value, dict) else "a list"
        raise ValueError(f"expected one label, a text or a number, found {kind}; a text gets one label")
    if isinstance(value, bytes):
        raise ValueError("expected a label that is text or a number, found bytes")
    label = str(value)
    if not label.strip():
        raise ValueError("expected a label, found an empty one")
    if len(label) > _LONGEST:
        raise ValueError(f"expected a label of at most {_LONGEST} characters, found {len(label)}; is it the text?")
    if re.fullmatch(r"\s*(\[.*\]|\{.*\})\s*", label, re.DOTALL):
        raise ValueError(f"expected one label, found what is written as a list or an object: {label[:40]}")
    if label.strip().lower() == "nan" or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"expected a label, found {label.strip()}")
    try:
        label.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"expected a label of valid Unicode, found an unpaired surrogate at {error.start}") from None
    return label


def is_number(label: str) -> bool:
    """Whether a label is a finite number, as those of a regression are."""
    try:
        return "_" not in label and math.isfinite(float(label))  # 1_2 is a number for Python, but a name for people
    except ValueError:
        return False


def are_amounts(labels: Iterable[str]) -> bool:
    """Whether labels are numbers of which some have a fraction that is not zero: amounts, not classes."""
    found = set(labels)
    return all(map(is_number, found)) and not all(float(label).is_integer() for label in found)


def whole_numbers(labels: Sequence[str]) -> Sequence[str]:
    """The labels, but 1.0 as 1 where all are whole numbers, as columns are written that once had an empty cell."""
    distinct = set(labels)
    short = {label: re.sub(r"^([+-]?\d+)\.0*$", r"\1", label) for label in distinct}
    if short.keys() == set(short.values()) or not all(re.fullmatch(r"[+-]?\d+", label) for label in short.values()):
        return labels
    return [short[label] for label in labels]


def refuse_alike(labels: Mapping[str, Sequence[str]], subject: str) -> None:
    """Raises InputError for labels that differ by blanks, case or their Unicode form alone.

    labels: the rows of every label.
    """
    spelled: dict[str, list[str]] = {}
    for label in labels:
        spelled.setdefault(spelling(label), []).append(label)
    problems = [
        "labels that differ by blanks or case only: "
        + ", ".join(f"{name!r} ({len(labels[name])} rows, the first in {labels[name][0]})" for name in names)
        for names in spelled.values()
        if len(names) > 1
    ]
    if problems:
        raise InputError.listing(f"{subject}: write every label in one way", problems)


def spelling(label: str) -> str:
    """A label without what people do not see or mean: case, blanks around it, its Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def refuse_no_classes(labels: Sequence[str], subject: str) -> None:
    """Raises InputError for labels of examples that are not the classes of a task: one alone, or about one a text."""
    counts = Counter(labels)
    if len(counts) == 1:
        raise InputError(
            f"{subject}: expected at least two classes, found only one label, {next(iter(counts))!r}, in all "
            f"{len(labels)} rows"
        )
    if len(counts) > _MANY and 2 * len(counts) > len(labels):
        raise InputError(
            f"{subject}: expected classes, found {len(counts)} labels in {len(labels)} rows, such as "
            f"{listed(sorted(counts)[:3])}; is the label in another column?"
        )


def fitted(labels: Sequence[str], names: Sequence[str]) -> tuple[list[str], str | None]:
    """Labels as a model's `names`, and what was assumed for that.

    Labels that are no names are taken by index if all of them are, and else by their spelling; what fits neither way
    stays as it is.
    """
    known, distinct = set(names), set(labels)
    if distinct <= known or len(names) < 2:  # what a regression calls its output is no class
        return list(labels), None
    by_index = {str(index): name for index, name in enumerate(names)}
    if distinct <= by_index.keys() and not distinct & known:
        how = ", ".join(f"{label} is {by_index[label]}" for label in sorted(distinct, key=int)[:SHOWN])
        return [by_index[label] for label in labels], f"its labels are taken as the model's classes by index: {how}"
    spelled = {spelling(name): name for name in names}
    if len(spelled) == len(names) and all(spelling(label) in spelled for label in distinct):
        how = ", ".join(f"{label!r} is {spelled[spelling(label)]!r}" for label in sorted(distinct - known)[:SHOWN])
        return [spelled[spelling(label)] for label in labels], f"its labels are taken as the model's classes: {how}"
    return list(labels), None


def listed(labels: Sequence[str]) -> str:
    """The first labels, and how many more there are."""
    shown = [label if len(label) <= 40 else f"{label[:40]}…" for label in labels[:SHOWN]]
    more = len(labels) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
