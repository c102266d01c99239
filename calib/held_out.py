"""Holds a part of a set out: the same texts at every run, a like share of every label."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from calib.data import Example
from calib.labels import are_amounts
from calib.targets import Labels, Spans
from engines.head import HeadKind
from engines.writing import write_whole

MOST = 1000
"""Most examples that are held out: the standard error of an accuracy of 0.9 is one point then."""


def hold_out(
    examples: Sequence[Example], kind: HeadKind | None = None, share: float = 0.1, most: int = MOST
) -> tuple[list[Example], list[Example]]:
    """The examples that stay, and those held out: `share` of every label's texts, but at most `most` in all.

    What is held out follows from the texts alone, not from their order. Rows of one text stay together, and in a
    ranking all passages of one query, which are judged together. A label with a single text keeps it, so the second
    list may be empty. Amounts count as one label. Both are in the given order.
    """
    digest = _query_digest if kind == "ranking" else _digest
    share = min(share, most / max(1, len(examples)))
    amounts = are_amounts(example.label for example in examples)
    texts: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        texts["" if amounts else example.label].add(digest(example))
    held: set[str] = set()
    for of_label in texts.values():
        count = min(len(of_label) - 1, max(1, math.floor(share * len(of_label) + 0.5)))
        held.update(sorted(of_label)[:count])
    out = [example for example in examples if digest(example) in held]
    return [example for example in examples if digest(example) not in held], out


def _digest(example: Example) -> str:
    return hashlib.sha256(f"{example.text}\0{example.text_b or ''}".encode()).hexdigest()


def _query_digest(example: Example) -> str:
    return hashlib.sha256(example.text.encode()).hexdigest()


def write_rows(path: Path, examples: Sequence[Example]) -> None:
    """Writes examples as .jsonl, which reads back as the same examples; a file that is alike stays."""
    rows = [{"label": _label(e), "text": e.text, "text_b": e.text_b} for e in examples]
    lines = [json.dumps({name: value for name, value in row.items() if value is not None}) for row in rows]
    content = ("\n".join(lines) + "\n").encode()
    if not path.is_file() or path.read_bytes() != content:
        write_whole(path, content)


def _label(example: Example) -> object:
    """The label as `read_target` takes it; None for none."""
    target = example.target
    if target is None:
        return example.label or None
    if isinstance(target, Labels):
        return list(target.names)
    if isinstance(target, Spans):
        return [dict(zip(("start", "end", "label"), span, strict=True)) for span in target.spans]
    return {"text": [text for _, text in target.spans], "answer_start": [start for start, _ in target.spans]}
