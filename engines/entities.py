"""Entities in a text, from the probabilities of its tokens' tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.origin import Origin
from engines.reading import Aggregation

OUTSIDE = "O"
"""The tag of tokens that are of no entity."""


@dataclass(frozen=True)
class Entity:
    """A piece of a text with its label; `start` and `end` are characters of its part, 1 in the second of a pair."""

    label: str
    probability: float
    start: int
    end: int
    text: str
    part: int = 0


@dataclass(frozen=True)
class _Piece:
    """A token, or a word, with its tag."""

    tag: str
    probability: float
    start: int
    end: int


def entities_of(
    probabilities: np.ndarray, labels: Sequence[str], origin: Origin, aggregation: Aggregation
) -> list[Entity]:
    """The entities of every part, in order; probabilities [tokens, labels] of all tokens, special ones too."""
    entities: list[Entity] = []
    for part, text in enumerate(origin.texts):
        tokens = origin.of_part(part)
        words = [[token] for token in tokens] if aggregation in ("none", "simple") else _words(tokens, origin)
        pieces = [_piece(probabilities, labels, origin, word, aggregation) for word in words]
        groups = [[piece] for piece in pieces] if aggregation == "none" else grouped(pieces)
        for group in groups:
            label = group[0].tag if aggregation == "none" else split_tag(group[0].tag)[1]
            start, end = group[0].start, group[-1].end
            if label != OUTSIDE:
                probability = float(np.mean([piece.probability for piece in group]))
                entities.append(Entity(label, probability, start, end, text[start:end], part))
    return entities


def grouped(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Neighbours of one label, cut where a tag begins an entity."""
    groups: list[list[_Piece]] = []
    for piece in pieces:
        begins, label = split_tag(piece.tag)
        if groups and not begins and label == split_tag(groups[-1][-1].tag)[1]:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def split_tag(tag: str) -> tuple[bool, str]:
    """Whether a tag begins an entity, and its label: of B-PER and I-PER it is PER, other tags are labels that go on."""
    if tag.startswith(("B-", "I-")):
        return tag.startswith("B-"), tag[2:]
    return False, tag


def _words(tokens: Sequence[int], origin: Origin) -> list[list[int]]:
    words: list[list[int]] = []
    for token in tokens:
        if words and origin.joined[token]:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _piece(
    probabilities: np.ndarray, labels: Sequence[str], origin: Origin, word: Sequence[int], aggregation: Aggregation
) -> _Piece:
    """A word with one tag, by its first token, the mean of its tokens, or the one that is surest."""
    rows = probabilities[list(word)]
    if aggregation == "average":
        row = rows.mean(0)
    elif aggregation == "max":
        row = rows[int(rows.max(1).argmax())]
    else:
        row = rows[0]
    best = int(row.argmax())
    return _Piece(labels[best], float(row[best]), origin.spans[word[0]][0], origin.spans[word[-1]][1])
