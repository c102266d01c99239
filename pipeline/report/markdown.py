"""Tables in Markdown, as the README and the documents show them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

_COLUMNS = 120


def table(head: Sequence[str], rows: Iterable[Sequence[str]], note: str, names: int = 1) -> str:
    """Returns a table and, below it, a note in lines of at most 120 characters.

    The first `names` columns are aligned to the left, the others, which hold figures, to the right.
    """
    alignment = ["---"] * names + ["---:"] * (len(head) - names)
    lines = [f"| {' | '.join(cells)} |" for cells in (head, alignment, *rows)]
    return "\n".join([*lines, "", *textwrap.wrap(note, _COLUMNS, break_on_hyphens=False, break_long_words=False)])
