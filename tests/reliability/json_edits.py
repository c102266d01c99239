"""Random edits of JSON: what a script, a hand or another program leaves behind."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e-40,
    1e300,
    10**9,
    10**30,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x" * 300,
    "\ud800",
    [],
    {},
)
"""Values that hardly any field expects."""


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The places of all that is no list or object in a JSON value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def at(content: Any, path: tuple) -> Any:
    """What is at a place."""
    for key in path:
        content = content[key]
    return content


def edit_leaf(content: dict, generator: random.Random, odd: bool = False) -> str:
    """Changes or deletes one leaf, each kind of field as likely as any other; says what it did.

    odd: also to values of other types and sizes.
    """
    kinds: dict[tuple, list[tuple]] = {}
    for path in leaves(content):
        kinds.setdefault(tuple(key for key in path if isinstance(key, str)), []).append(path)
    same = kinds[generator.choice(sorted(kinds))]
    path = generator.choice(same)
    old, holder = at(content, path), at(content, path[:-1])
    if generator.random() < 0.1:
        del holder[path[-1]]
        return f"{'.'.join(map(str, path))} deleted"
    others = [at(content, other) for other in same if at(content, other) != old]
    new = _another(old, others, generator, odd)
    holder[path[-1]] = new
    return f"{'.'.join(map(str, path))}: {old!r} to {new!r}"


def _another(old: Any, others: list, generator: random.Random, odd: bool) -> Any:
    if odd and generator.random() < 0.6:
        return generator.choice(ODD)
    if others and generator.random() < 0.5:  # as if it were another one's
        return generator.choice(others)
    if isinstance(old, bool):
        return not old
    if isinstance(old, int | float):
        return generator.choice([old + 1, old * 2, 0, -1, 1, old * 0.5, 1e9])
    if isinstance(old, str):
        other_text = re.sub(r"[0-9a-z]", lambda m: generator.choice("0123456789abcdef"), old, count=1)
        return generator.choice([other_text, "", old + "x", "int8", "fp32", "bf16", "cpu", "../x"])
    return generator.choice([1, "x", [], {}])
