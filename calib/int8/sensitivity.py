"""What INT8 costs: divergence of the answers, a table by layer, and leaving layers wide until a budget holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional as F

from calib.int8.scheme import QuantizationScheme, groups
from calib.int8.simulation import simulate
from pipeline.model.answers import same_answer
from pipeline.model.config import HeadConfig
from pipeline.model.reference import Reference
from pipeline.model.transformer import PrunedTransformer

_TURNED = 0.995
"""The cosine of an angle of 0.1."""


class LayerCost(BaseModel):
    """The effect of quantising one group of layers alone.

    divergence: mean over samples, see `divergence`. changed: share of samples with another label.
    """

    model_config = ConfigDict(frozen=True)

    group: str
    layers: list[str]
    divergence: float
    changed: float


class Kept(BaseModel):
    """A scheme within the budget, the groups left wide for it, and the drops in points on the way."""

    model_config = ConfigDict(frozen=True)

    scheme: QuantizationScheme
    left_wide: list[str]
    drops: list[float]
    budget: float

    @property
    def within_budget(self) -> bool:
        """Whether the drop is within the budget; never for a scheme that quantises nothing."""
        return bool(self.scheme.ranges) and self.drops[-1] <= self.budget


def divergence(head: HeadConfig, expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """Mean Kullback-Leibler divergence in nats of the predicted distributions from the expected ones; for regression
    and embeddings the mean squared difference over the variance of the expected values."""
    if head.one_value or head.kind == "embedding":
        ours, theirs = torch.stack(list(actual)), torch.stack(list(expected))
        return float((ours - theirs).square().mean() / theirs.var(0, unbiased=False).mean().clamp_min(1e-12))
    if head.kind == "multi_label":  # every label is a distribution of its own, over yes and no
        expected, actual = ([torch.stack([x, torch.zeros_like(x)], -1) for x in side] for side in (expected, actual))
    over = 0 if head.kind == "question_answering" else -1  # start and end are distributions over the positions
    each = [
        F.kl_div(q.log_softmax(over), p.log_softmax(over), reduction="none", log_target=True).sum(over).mean()
        for p, q in zip(expected, actual, strict=True)
    ]
    return float(torch.stack(each).mean())


def changed_share(head: HeadConfig, expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """Share of samples with another label anywhere; for regression, those that move by 1 % of the values' range, for
    embeddings those that turn by more than 0.1, as an angle."""
    if head.one_value:
        ours, theirs = torch.stack(list(actual)), torch.stack(list(expected))
        return float(((ours - theirs).abs() > 0.01 * (theirs.max() - theirs.min())).float().mean())
    if head.kind == "embedding":
        same = [float(F.cosine_similarity(p, q, dim=0)) >= _TURNED for p, q in zip(expected, actual, strict=True)]
    else:
        same = [same_answer(head, p, q) for p, q in zip(expected, actual, strict=True)]
    return 1 - sum(same) / len(same)


def sensitivity_table(model: PrunedTransformer, scheme: QuantizationScheme, reference: Reference) -> list[LayerCost]:
    """One row for each group of layers, the costliest first. `reference` is the unquantised model's on some samples."""
    rows = []
    for group, layers in groups(scheme.ranges).items():
        answers = Reference.of(simulate(model, scheme.only(layers)), reference.samples).logits
        head = model.config.head
        cost, changed = divergence(head, reference.logits, answers), changed_share(head, reference.logits, answers)
        rows.append(LayerCost(group=group, layers=layers, divergence=cost, changed=changed))
    return sorted(rows, key=lambda row: -row.divergence)


def hold_budget(
    scheme: QuantizationScheme,
    table: Sequence[LayerCost],
    drop_of: Callable[[QuantizationScheme], float],
    budget: float,
) -> Kept:
    """Leaves the costliest groups in the wider precision, one more at a time, until the drop holds the budget.

    table:   the sensitivity table, the costliest groups first.
    drop_of: points that the metric loses under a scheme; budget: points that it may lose.
    If only the unquantised model would hold it, the scheme that comes back is empty.
    """
    left: list[str] = []
    drops = [drop_of(scheme)]
    if drops[0] > budget:
        for cost in table:
            scheme = scheme.without(cost.layers)
            left.append(cost.group)
            if not scheme.ranges:
                break
            drops.append(drop_of(scheme))
            if drops[-1] <= budget:
                break
    return Kept(scheme=scheme, left_wide=left, drops=drops, budget=budget)
