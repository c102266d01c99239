"""The golden cases of plugins/token_compact/cases.txt as arrays."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.plugins.make_token_compact_cases import PATH


@dataclass(frozen=True)
class GoldenCase:
    """Inputs [B, S], attributes, and what must come out [B, C]; `source` is each output row's input row."""

    name: str
    width: int
    threshold: float
    capacity: int
    protect_first: int
    score: NDArray[np.float32]
    alive: NDArray[np.int32]
    position: NDArray[np.int32]
    source: NDArray[np.int64]
    packed_alive: NDArray[np.int32]
    packed_position: NDArray[np.int32]
    count: NDArray[np.int32]

    def hidden(self, dtype: np.dtype | type) -> NDArray:
        """[B, S, D]; the values are small integers, exact in every type."""
        rows, columns = np.arange(self.score.size)[:, None], np.arange(self.width)
        return ((131 * rows + 7 * columns) % 251 - 125).reshape(*self.score.shape, self.width).astype(dtype)


def read_cases() -> list[GoldenCase]:
    """All cases, in the order of the file."""
    blocks = PATH.read_text(encoding="utf-8").split("\ncase ")[1:]
    return [_parse(block) for block in blocks]


def _parse(block: str) -> GoldenCase:
    name, *lines = block.splitlines()
    values: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        key, *numbers = line.split() or [""]
        values[key] += numbers
    batch, length, width = map(int, values["shape"])
    rows = int(values["capacity"][0]) or length

    def table(key: str, columns: int, dtype: type) -> NDArray:
        return np.array(values[key], dtype=np.float64).astype(dtype).reshape(batch, columns)

    return GoldenCase(
        name=name,
        width=width,
        threshold=float(values["threshold"][0]),
        capacity=int(values["capacity"][0]),
        protect_first=int(values["protect_first"][0]),
        score=table("score", length, np.float32),
        alive=table("alive", length, np.int32),
        position=table("position", length, np.int32),
        source=table("source", rows, np.int64),
        packed_alive=table("packed_alive", rows, np.int32),
        packed_position=table("packed_position", rows, np.int32),
        count=np.array(values["count"], dtype=np.int32),
    )
