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
        postings: dict[str, list[tuple[int, int]]] = {}
        for passage, count in enumerate(counts):
            for word, number in count.items():
                postings.setdefault(word, []).append((passage, number))
        self._size = len(passages)
        self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, entries in postings.items():
            holders, numbers = (np.array(column) for column in zip(*entries, strict=True))
            rarity = np.log(1 + (self._size - len(holders) + 0.5) / (len(holders) + 0.5))
            weight = rarity * numbers * (_SATURATION + 1) / (numbers + _SATURATION * relative[holders])
            self._weights[word] = holders, weight

    def scores(self, query: str) -> np.ndarray:
        """[passages], 0 where nothing is shared."""
        scores = np.zeros(self._size)
        for word in set(words(query)) & self._weights.keys():
            holders, weight = self._weights[word]
            scores[holders] += weight
        return scores

    def ranked(self, query: str) -> np.ndarray:
        """The numbers of all passages, the best first; of equal ones the earlier."""
        return np.argsort(-self.scores(query), kind="stable")


def words(text: str) -> list[str]:
    """The words of a text, without case."""
    return re.findall(r"\w+", text.lower())
