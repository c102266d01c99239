"""When two answers of a head are the same, and by how much rounding moved one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engines.head import Head
from engines.prediction import cut_logits

TIE = 1e-3
"""Answers are the same within this share of the logits' scale: what rounding adds up to over all layers."""


def same_answer(head: Head, expected: Tensor, found: Tensor, moved: float | None = None) -> bool:
    """Whether logits say the same; by `moved`, what rounding moved the answer by, they may differ, None: not at all.

    Labels must be equal, or their expected logits a tie. Values and embeddings must be near each other in any case.
    """
    tie = 0.0 if moved is None else max(TIE * _scale(head, expected), moved)
    match head.kind:
        case "regression" | "ranking":
            return bool((expected - found).abs().max() <= max(tie, TIE * _scale(head, expected)))
        case "embedding":
            return _distance(expected, found) <= max(tie, TIE)
        case "multi_label":
            cuts = torch.tensor(cut_logits(head), dtype=expected.dtype)
            other = (expected >= cuts) != (found >= cuts)
            return bool(((expected - cuts).abs() <= tie)[other].all())
        case _:
            over = _choice(head)
            chosen = expected.gather(over, found.argmax(over, keepdim=True)).squeeze(over)
            return bool((expected.amax(over) - chosen <= tie).all())


def answer_move(head: Head, ours: Tensor, theirs: Tensor) -> float:
    """How far rounding moved an answer: a label by the most that the gap between two logits changes, since a gap
    decides on it, a value by what it changes by, an embedding by its distance over its length.

    What it moves by does not grow with the logits, which differ in what the head reads more than in how exactly.
    """
    change = ours - theirs
    if head.kind == "embedding":
        return _distance(ours, theirs)
    over = _choice(head)
    if head.kind == "multi_label" or change.shape[over] == 1:
        return float(change.abs().max())
    return float((change.amax(over) - change.amin(over)).max())


def _choice(head: Head) -> int:
    """The dimension over which a label is chosen: of a question the ends among the tokens, else one of the classes."""
    return 0 if head.kind == "question_answering" else -1


def _scale(head: Head, logits: Tensor) -> float:
    return 1.0 if head.kind == "embedding" else max(1.0, float(logits.abs().max()))


def _distance(expected: Tensor, found: Tensor) -> float:
    """Of two embeddings, over the length of the expected one; NaN is infinitely far."""
    distance = float((expected - found).norm() / expected.norm().clamp_min(1e-12))
    return math.inf if math.isnan(distance) else distance
