"""Writes the golden cases of Regroup, cases.txt, with an oracle that moves row numbers instead of rows.

python -m tests.plugins.make_regroup_cases
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).parents[2] / "plugins" / "regroup" / "cases.txt"

HEADER = """\
# Golden cases of Regroup, written by make_regroup_cases.py: edit that file, not this one.
# case NAME, width D, target B S; buffers: samples and length of each source buffer; sources: for each target
# sample the buffer and the sample in it, -1 -1 for none; rows [B, S] is what must come out: the number of the
# row, counted through all buffers, or -1 where the row is cleared. Row g of the sources has hidden
# (131 * g + 7 * d) mod 251 - 125, alive (g mod 3 != 0) and position 2 * g + 1.
"""

NONE = (-1, -1)


@dataclass
class Case:
    """One call: `buffers` are (samples, length), `sources` (buffer, sample); a target sample has `length`."""

    name: str
    buffers: list[tuple[int, int]]
    sources: list[tuple[int, int]]
    length: int
    width: int = 4

    def rows(self, source: tuple[int, int]) -> list[int]:
        if source == NONE:
            return [-1] * self.length
        buffer, sample = source
        first = sum(samples * length for samples, length in self.buffers[:buffer])
        length = self.buffers[buffer][1]
        return [first + sample * length + row if row < length else -1 for row in range(self.length)]

    def lines(self) -> Iterator[str]:
        yield f"case {self.name}"
        yield f"width {self.width}"
        yield f"target {len(self.sources)} {self.length}"
        yield "buffers " + "  ".join(f"{samples} {length}" for samples, length in self.buffers)
        yield "sources " + "  ".join(f"{buffer} {sample}" for buffer, sample in self.sources)
        for source in self.sources:
            yield " ".join(["rows", *map(str, self.rows(source))])
        yield ""


def cases() -> list[Case]:
    return [
        Case("same_bucket", [(2, 4)], [(0, 0), (0, 1)], length=4),
        Case("shorter_bucket", [(2, 6)], [(0, 0), (0, 1)], length=3),
        Case("longer_bucket", [(2, 3)], [(0, 0), (0, 1)], length=5),
        Case("one_row", [(1, 1)], [(0, 0)], length=1, width=1),
        Case("two_requests_meet", [(3, 8), (2, 5)], [(0, 2), (1, 0), (0, 0), (1, 1)], length=6),
        Case("free_places_are_cleared", [(1, 4)], [NONE, (0, 0), NONE], length=4),
        Case("only_free_places", [(1, 2)], [NONE, NONE], length=3),
        Case("same_sample_twice", [(2, 3)], [(0, 1), (0, 1)], length=3),
        Case("wide_rows", [(2, 3), (1, 2)], [(1, 0), (0, 1)], length=2, width=144),
        Case("odd_width", [(2, 9)], [(0, 1), (0, 0)], length=9, width=7),
        Case("more_than_a_block", [(1, 40), (1, 30)], [(1, 0), (0, 0)], length=36, width=8),
        Case("more_than_a_launch", [(70, 2)], [(0, 69 - i) for i in range(70)], length=1, width=2),
    ]


def text() -> str:
    return HEADER + "\n" + "\n".join(line for case in cases() for line in case.lines())


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
    print(f"{PATH.name}: {len(cases())} cases")
