"""Task metrics of a set of answers, and the drop from one to another in points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib.data import Example, is_number
from calib.ranking import ndcg, queries_of
from engines.head import Head


def accuracy(head: Head, logits: Sequence[np.ndarray], examples: Sequence[Example]) -> float:
    """Share of right labels; for regression the Pearson correlation, NaN where either side is constant; for ranking
    nDCG@10.
    """
    if head.kind == "ranking":
        return ndcg([float(x[0]) for x in logits], [float(e.label) for e in examples], queries_of(examples))
    if head.kind == "regression":
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.corrcoef([float(x[0]) for x in logits], [float(e.label) for e in examples])[0, 1])
    right = [head.labels[int(x.argmax())] == e.label for x, e in zip(logits, examples, strict=True)]
    return sum(right) / len(right)


def labelled(head: Head, examples: Sequence[Example]) -> bool:
    """Whether the labels are the head's classes, or numbers where it gives one, so that a metric means something."""
    if head.one_value:
        return all(is_number(example.label) for example in examples)
    return {example.label for example in examples} <= set(head.labels)


def drop_points(dense: float, ours: float) -> float:
    """Returns the drop of a metric in points. 0.879 - 0.869 is exactly 1, though a little more in binary."""
    return round(100 * (dense - ours), 9)
