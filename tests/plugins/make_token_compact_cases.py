"""Writes the golden cases of TokenCompact, cases.txt; the oracle is a plain transcription of the contract.

python -m tests.plugins.make_token_compact_cases
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PATH = Path(__file__).parents[2] / "plugins" / "token_compact" / "cases.txt"

HEADER = """\
# Golden cases of skimrt::TokenCompact, written by make_token_compact_cases.py: edit that file, not this one.
# case NAME, then shape B S D, the attributes, the inputs [B, S], and what must come out: source [B, C] is the
# row of the sample that lies in each output row (packed = hidden[source]), then packed_alive, packed_position
# [B, C] and count [B]. hidden is not listed: element (b, s, d) is (131 * (b * S + s) + 7 * d) mod 251 - 125,
# exact in every type.
"""


def float32(value: float) -> float:
    """The float32 nearest to `value`."""
    return struct.unpack("f", struct.pack("f", value))[0]


def next_below(value: float) -> float:
    """The largest float32 below the positive float32 `value`."""
    bits = struct.unpack("I", struct.pack("f", value))[0]
    return struct.unpack("f", struct.pack("I", bits - 1))[0]


@dataclass
class Case:
    """One call: score, alive, position [B][S]; the attributes as a node carries them."""

    name: str
    score: list[list[float]]
    threshold: float = 0.5
    capacity: int = 0
    protect_first: int = 1
    width: int = 3
    alive: list[list[int]] = field(default_factory=list)
    position: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.threshold = float32(self.threshold)
        self.score = [[float32(value) for value in row] for row in self.score]
        self.alive = self.alive or [[1] * len(row) for row in self.score]
        self.position = self.position or [list(range(len(row))) for row in self.score]

    def source(self, sample: int) -> tuple[list[int], list[bool], int]:
        """(order of the rows, kept bit of each row, count) of one sample: design rule by rule."""
        kept = []
        for k, (score, alive) in enumerate(zip(self.score[sample], self.alive[sample], strict=True)):
            passes = score >= self.threshold or (k == 0 and self.protect_first == 1)
            kept.append(alive != 0 and passes)
        carried = [k for k in range(len(kept)) if kept[k] or k == 0]
        others = [k for k in range(len(kept)) if not (kept[k] or k == 0)]
        return carried + others, kept, len(carried)

    def lines(self) -> Iterator[str]:
        length = len(self.score[0])
        rows = self.capacity or length
        yield f"case {self.name}"
        yield f"shape {len(self.score)} {length} {self.width}"
        yield f"threshold {self.threshold:.9g}"
        yield f"capacity {self.capacity}"
        yield f"protect_first {self.protect_first}"
        results = [self.source(sample) for sample in range(len(self.score))]
        tables: dict[str, list[list]] = {
            "score": [[f"{value:.9g}" for value in row] for row in self.score],
            "alive": self.alive,
            "position": self.position,
            "source": [order[:rows] for order, _, _ in results],
            "packed_alive": [[int(kept[k]) for k in order[:rows]] for order, kept, _ in results],
            "packed_position": [
                [position[k] for k in order[:rows]]
                for (order, _, _), position in zip(results, self.position, strict=True)
            ],
            "count": [[count for _, _, count in results]],
        }
        for name, table in tables.items():
            for row in table:
                yield " ".join([name, *map(str, row)])
        yield ""


def random_case(name: str, shape: tuple[int, int, int], keep: float, **attributes: int) -> Case:
    """Scores below and above the threshold, some rows dead on arrival, positions as after a compaction."""
    generator = random.Random(name)
    batch, length, width = shape
    score = [[round(generator.random(), 3) for _ in range(length)] for _ in range(batch)]
    alive = [[int(generator.random() < 0.8) for _ in range(length)] for _ in range(batch)]
    position = [sorted(generator.sample(range(2 * length), length)) for _ in range(batch)]
    return Case(name, score, threshold=1 - keep, width=width, alive=alive, position=position, **attributes)


def cases() -> list[Case]:
    nan, inf = math.nan, math.inf
    tie = float32(0.1)
    mixed = [[0.1, 0.9, 0.2, 0.8, 0.7, 0.3]]
    dead_first = [[0, 1, 1, 1, 1, 1]]
    return [
        Case("one_row", [[0.9]]),
        Case("one_row_dead", [[0.1]], protect_first=0),
        Case("nothing_dropped", [[0.5, 0.6, 0.7, 0.8]]),
        Case("everything_dropped", [[0.1, 0.2, 0.3, 0.4]], protect_first=0),
        Case("first_protected", mixed),
        Case("first_carried_but_dead", mixed, protect_first=0),
        Case("first_dead_on_arrival", mixed, alive=dead_first),
        Case("first_dead_on_arrival_unprotected", [[0.9, *mixed[0][1:]]], protect_first=0, alive=dead_first),
        Case("tie_keeps", [[0.0, tie, next_below(tie), 0.1, 0.2]], threshold=tie),
        Case("subnormal_tie", [[0.0, 1e-40, next_below(float32(1e-40)), 0.0]], threshold=1e-40),
        Case("negative_zero_keeps", [[-1.0, -0.0, 0.0, -1e-30]], threshold=0.0),
        Case("nan_score_is_dropped", [[nan, nan, 0.9, nan, inf, -inf]], protect_first=0),
        Case("nan_score_of_protected_first", [[nan, 0.9, nan]]),
        Case("infinite_threshold", [[inf, 1e38, inf, nan]], threshold=inf, protect_first=0),
        Case("minus_infinite_threshold", [[-inf, -1e38, nan, 0.0]], threshold=-inf, protect_first=0),
        Case("alive_is_any_nonzero", [[0.9] * 5], alive=[[1, 2, 0, -1, 256]]),
        Case("capacity_holds_all", mixed, capacity=4),
        Case("capacity_holds_some_dead", mixed, capacity=5),
        Case("capacity_overflows", mixed, capacity=2),
        Case("capacity_one", mixed, capacity=1),
        Case(
            "left_padding_and_holes",
            [[0.9] * 6, [0.9, 0.1] * 3],
            alive=[[0, 0, 1, 1, 0, 1], [1, 0, 1, 1, 1, 0]],
        ),
        Case("all_padding_beside_full", [[0.0] * 4, [0.9] * 4], alive=[[0] * 4, [1] * 4]),
        random_case("word_boundary_32", (1, 32, 8), 0.5),
        random_case("word_boundary_33", (2, 33, 5), 0.5),
        random_case("ragged_batch", (3, 70, 16), 0.4, protect_first=0),
        random_case("ragged_batch_overflow", (3, 70, 16), 0.7, capacity=24),
    ]


def text() -> str:
    return HEADER + "\n" + "\n".join(line for case in cases() for line in case.lines())


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
    print(f"{PATH.name}: {len(cases())} cases")
