"""What an early decision learns from the dense teacher: which tokens the layers behind it look at.

As in ToP (Li et al., 2023), which distils the ranking of the tokens in late layers into early ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engines.stages import Step
from pipeline.model.pruners import LtpPruner, Pruner
from pipeline.model.transformer import PrunedTransformer, State
from pipeline.training.batches import Batch

_LEAST = 1e-9
"""Shares below this one are taken for it: their logarithm must be finite."""


def answer_and_attention(teacher: PrunedTransformer, batch: Batch, behind: int) -> tuple[Tensor, Tensor]:
    """The teacher's logits, and the attention [B, S] that each token receives in all layers behind a decision of ours.

    behind: the last layer whose attention the decision comes after, -1 if none.
    """
    steps: list[Step] = []
    for layer in range(teacher.config.encoder.layers):
        asked = [Step("decide", layer)] if layer > behind else []
        steps += [Step("attend", layer), *asked, Step("feed", layer)]
    received = torch.zeros(batch.mask.shape)

    def look(_: int, __: Tensor, state: State) -> State:
        nonlocal received
        assert state.mass is not None
        received = received + state.mass.float()
        return state

    state = teacher.walk(teacher.embed(batch.input_ids, batch.token_type_ids, batch.mask), steps, look)
    if any(step.kind == "decide" for step in teacher.steps):  # it answers without what it drops
        return teacher(batch.input_ids, batch.mask, batch.token_type_ids).logits, received
    return teacher.head(teacher.finished(state.hidden), batch.mask), received


def ranking_loss(pruner: Pruner, score: Tensor, counted: Tensor, attention: Tensor) -> Tensor:
    """The divergence of an early decision's scores [B, S] from the attention [B, S], both as shares of counted rows.

    LTP's score is a share already, up to a factor; the shares of Transkimmer's are its softmax.
    """
    preference = score.clamp_min(_LEAST).log() if isinstance(pruner, LtpPruner) else score
    found = torch.log_softmax(preference.masked_fill(~counted, -1e4), -1)
    wanted = attention.masked_fill(~counted, 0).clamp_min(_LEAST)
    wanted = wanted / wanted.sum(-1, keepdim=True)
    return ((wanted * (wanted.log() - found)) * counted).sum(-1).mean()
