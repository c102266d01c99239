"""Decisions that can be trained: soft thresholds (LTP), straight-through Gumbel (Transkimmer), and hard removal.

All three follow removal semantics: a token of weight w takes part in every later softmax w times. Dead keys leave the
softmax and the rest is renormalised, so that what is trained is what is deployed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.model.pruners import LtpPruner
from pipeline.model.transformer import PrunedTransformer, State
from plugins.token_compact.operator import are_carried, carried_first, surviving

_INFLUENCE = 4.0
"""Most that the loss may gain or lose by one token's weight, over an even share of 1 for every real token of the batch.
To first order a dropped key that many queries look at (an attention sink) is worth e^score over what is left, without
any limit, and the cost of the tokens would drown in it; the whole effect of one key is bounded."""
_SURE = 5.0
"""A score that training raises no further, nor lowers below its negative. While a run presses little, the task alone
would raise every score to where the sigmoid is flat, and no pressure could bring any of them back."""


class _Bounded(torch.autograd.Function):
    """Scores within the bounds; a gradient that leads farther out than a bound is 0."""

    @staticmethod
    def forward(context: Any, score: Tensor) -> Tensor:
        context.save_for_backward(score)
        return score.clamp(-_SURE, _SURE)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (score,) = context.saved_tensors
        outwards = ((score >= _SURE) & (gradient < 0)) | ((score <= -_SURE) & (gradient > 0))
        return gradient.masked_fill(outwards, 0)


@dataclass
class Relaxation:
    """Decides for `PrunedTransformer.walk` and remembers the (differentiable) row counts of every layer.

    kind:        "soft", "straight_through" or "hard".
    temperature: of the soft threshold, in units of the uniform score 1 / reference_length; or of the Gumbel sample.
    noise:       scale of the logistic noise of the straight-through sample; 0 is the decision of inference.
    left:        [B, S, D], what dropped tokens leave to a head that reads every token.
    first:       the first decision's score [B, S], and the rows [B, S] bool that it could drop.
    """

    model: PrunedTransformer
    kind: str
    temperature: float
    noise: float = 1.0
    counts: list[Tensor] = field(default_factory=list)
    survivors: Tensor | None = None
    real: int = 0
    weights: Tensor | None = None
    left: Tensor | None = None
    first: tuple[Tensor, Tensor] | None = None

    def start(self, mask: Tensor) -> None:
        """Resets the counts for a new batch; mask [B, S] is 1 on real tokens."""
        self.left = self.first = None
        self.counts = [mask.sum(-1).float()] * self.model.config.encoder.layers
        self.survivors, self.real, self.weights = mask.float(), int(mask.sum()), None

    def __call__(self, layer: int, score: Tensor, state: State) -> State:
        """The state after the decision of `layer` on score [B, S]."""
        before, weights = state, self.weights
        if self.first is None:
            self.first = score.float(), (state.alive > 0) & ~state.protected
        if self.kind == "hard":
            state = self._hard(layer, score.float(), state)
            rows = state.alive.float()
        else:
            self.weights = self._weights(layer, score.float(), state)
            rows = self._counted(layer, score.float(), state)
            state = replace(state, keep=self._felt(self.weights))
        for later in range(layer, len(self.counts)):
            self.counts[later] = rows.sum(-1)
        head = self.model.config.head
        if head.token_level or head.pools:
            self.left = self._left_behind(before, self.model.left_behind(layer, before.hidden), weights)
        return state

    def last_states(self, state: State) -> Tensor:
        """[B, S, D]: each token's last state at its own place, where the head reads all of them; else the rows'."""
        last = self.model.finished(state.hidden)
        if self.left is None:
            return last
        return self._kept(state, last) if self.kind == "hard" else self.left + self._share(self.weights) * last

    def _left_behind(self, before: State, last: Tensor, weights: Tensor | None) -> Tensor:
        """[B, S, D]: what `last_states` takes from decisions so far: of each token the part of its weight that it lost.

        before: the state in front of the decision. last: its rows' last states if they are dropped.
        weights: those in front of the decision; None: all are 1.
        """
        if self.kind == "hard":
            return self._kept(before, last)
        lost = self._share(weights) - self._share(self.weights)
        left = lost * last
        return left if self.left is None else self.left + left

    def _kept(self, state: State, last: Tensor) -> Tensor:
        """The last states of the rows that a state carries at their places, and what was left at the others."""
        left = last if self.left is None else self.left
        place = state.place.long()[:, :, None].expand_as(last)
        carried = are_carried(state.alive)[:, :, None]
        return left.scatter(1, place, torch.where(carried, last.to(left.dtype), left.gather(1, place)))

    @staticmethod
    def _share(weights: Tensor | None) -> Tensor | float:
        """Weights [B, S, 1], of which the first token's is 1: it is always carried."""
        if weights is None:
            return 1.0
        first = torch.arange(weights.shape[1], device=weights.device) == 0
        return torch.where(first, torch.ones_like(weights), weights)[:, :, None]

    def _counted(self, layer: int, score: Tensor, state: State) -> Tensor:
        """[B, S]: the decisions that inference would take, without noise or softness, with the gradient of the
        weights. A budget that counted the weights would be met by tokens that are all half alive."""
        assert self.survivors is not None and self.weights is not None
        threshold, protect = self.model.pruner.threshold(layer), self.model.config.pruner.protect_first
        self.survivors = surviving(score.detach(), self.survivors, threshold, protect).float()
        weights = self.weights * state.alive
        return self.survivors + weights - weights.detach()

    def _hard(self, layer: int, score: Tensor, state: State) -> State:
        """Removes the dead rows as inference does, with gradients through the survivors."""
        keep = surviving(score, state.alive, self.model.pruner.threshold(layer), self.model.config.pruner.protect_first)
        carried = are_carried(keep)
        order = carried_first(carried)[:, : int(carried.sum(-1).max())]
        hidden = state.hidden.gather(1, order[:, :, None].expand(-1, -1, state.hidden.shape[2]))
        return State(hidden, keep.int().gather(1, order), state.position.gather(1, order))

    def _felt(self, weights: Tensor) -> Tensor:
        """The weights as the encoder takes them: what it says about a sampled one is bounded, what it costs is not."""
        if self.kind != "straight_through" or not weights.requires_grad:
            return weights
        felt, bound = weights.view_as(weights), _INFLUENCE / self.real
        felt.register_hook(lambda gradient: gradient.clamp(-bound, bound))
        return felt

    def _weights(self, layer: int, score: Tensor, state: State) -> Tensor:
        """The weight of every token, [B, S] in [0, 1], never above what it was before."""
        pruner = self.model.pruner
        if isinstance(pruner, LtpPruner):
            # M = sigmoid((s - theta) / T), Kim et al. 2022, eq. 6; T is relative to the uniform score.
            assert pruner.thresholds is not None, "LtpPruner.learn() comes before training"
            reference = self.model.config.pruner.reference_length or 1
            logit = (score - pruner.thresholds[layer]) * reference / self.temperature
        else:
            score, uniform = _Bounded.apply(score), torch.rand_like(score).clamp(1e-6, 1 - 1e-6)
            # The difference of two Gumbel samples is logistic.
            logit = (score + self.noise * (uniform.log() - (1 - uniform).log())) / self.temperature
        weight = torch.sigmoid(logit)
        if self.kind == "straight_through":
            weight = (logit >= 0).float() + weight - weight.detach()
        protected = state.protected
        if self.model.config.pruner.protect_first:
            protected = protected | (torch.arange(weight.shape[1], device=weight.device) == 0)[None, :]
        weight = torch.where(protected, torch.ones_like(weight), weight)
        return weight if self.weights is None else weight * self.weights
