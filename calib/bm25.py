"""BM25 (Robertson et al., 1994): passages that share the most telling words with a query make hard negatives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

_SATURATION, _LENGTH = 1.2, 0.75
"""k1 and b, as usual."""


class BM25:
    """An index of passages in memory; words are runs of letters and digits, without case."""

    def __init__(self, passages: Sequence[str]) -> None:
        counts = [Counter(words(passage)) for passage in passages]
        lengths = np.array([count.total() for count in counts], np.float32)
        relative = 1 - _LENGTH + _LENGTH * lengths / lengths.mean()
        held: dict[str, list[tuple[int, int]]] = {}
        for place, count in enumerate(counts):
            for word, number in count.items():
                held.setdefault(word, []).append((place, number))
        self._size = len(passages)
        self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, entries in held.items():
            places, numbers = (np.array(column) for column in zip(*entries, strict=True))
            rarity = np.log(1 + (self._size - len(places) + 0.5) / (len(places) + 0.5))
            weight = rarity * numbers * (_SATURATION + 1) / (numbers + _SATURATION * relative[places])
            self._weights[word] = places, weight

    def scores(self, query: str) -> np.ndarray:
        """[passages], 0 where nothing is shared."""
        scores = np.zeros(self._size)
        for word in set(words(query)) & self._weights.keys():
            places, weight = self._weights[word]
            scores[places] += weight
        return scores

    def ranked(self, query: str) -> np.ndarray:
        """The places of all passages, the best first; of equal ones the earlier."""
        return np.argsort(-self.scores(query), kind="stable")


def words(text: str) -> list[str]:
    """The words of a text, without case."""
    return re.findall(r"\w+", text.lower())
