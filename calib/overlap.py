"""F1 of labels, entities and answers."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Hashable, Sequence


def f1(right: int, predicted: int, wanted: int) -> float:
    """Of precision and recall, by counts; 1 where there was nothing to find and nothing was found."""
    return 2 * right / (predicted + wanted) if predicted + wanted else 1.0


def micro_f1(predicted: Sequence[Collection[Hashable]], wanted: Sequence[Collection[Hashable]]) -> float:
    """Over all that was found in all texts: of entities (start, end, label) this is seqeval's."""
    right = sum(len(set(ours) & set(theirs)) for ours, theirs in zip(predicted, wanted, strict=True))
    return f1(right, sum(len(set(ours)) for ours in predicted), sum(len(set(theirs)) for theirs in wanted))


def macro_f1(
    predicted: Sequence[Collection[Hashable]], wanted: Sequence[Collection[Hashable]], labels: Sequence[Hashable]
) -> float:
    """The mean over the labels of each one's F1; a label that nobody gave and nobody wanted is left out."""
    scores = []
    for label in labels:
        ours, theirs = ([label in names for names in side] for side in (predicted, wanted))
        if any(ours) or any(theirs):
            scores.append(f1(sum(a and b for a, b in zip(ours, theirs, strict=True)), sum(ours), sum(theirs)))
    return sum(scores) / len(scores) if scores else 1.0


def exact_match(predicted: str, wanted: Sequence[str]) -> float:
    """1 if an answer is one of the wanted ones, as SQuAD spells them; of none wanted, "" is right."""
    return float(any(_words(predicted) == _words(answer) for answer in wanted or [""]))


def answer_f1(predicted: str, wanted: Sequence[str]) -> float:
    """The F1 of an answer's words against the wanted one that it is nearest to, as SQuAD counts it."""
    scores = []
    for answer in wanted or [""]:
        ours, theirs = _words(predicted), _words(answer)
        shared = sum((Counter(ours) & Counter(theirs)).values())
        scores.append(f1(shared, len(ours), len(theirs)))
    return max(scores)


def _words(text: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()
