"""How many rows samples carry behind each layer's decision, found without running the model further than it decides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engines.tokenization import Tokens
from pipeline.model.transformer import PrunedTransformer, State
from plugins.token_compact.operator import are_carried

_BATCH = 8


class PaddedBatch(NamedTuple):
    """input_ids, mask and token_type_ids, each [B, S]; mask is 1 on real tokens."""

    input_ids: Tensor
    mask: Tensor
    token_type_ids: Tensor


def padded(samples: Sequence[Tokens], pad_token_id: int) -> PaddedBatch:
    """The samples as one batch as long as the longest of them."""
    ids = torch.full((len(samples), max(map(len, samples))), pad_token_id)
    types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for place, item in enumerate(samples):
        ids[place, : len(item)] = torch.tensor(item.input_ids)
        types[place, : len(item)] = torch.tensor(item.token_type_ids)
        mask[place, : len(item)] = 1
    return PaddedBatch(ids, mask, types)


def by_length(samples: Sequence[Tokens]) -> Iterator[list[int]]:
    """The places of the samples in small groups of similar length, the shortest first."""
    order = sorted(range(len(samples)), key=lambda index: len(samples[index]))
    yield from (order[start : start + _BATCH] for start in range(0, len(order), _BATCH))


@torch.no_grad()
def undecided(model: PrunedTransformer, samples: Sequence[Tokens]) -> Iterator[tuple[list[int], State]]:
    """The states in front of the first decision, in small groups of samples by their places."""
    first = next((place for place, step in enumerate(model.steps) if step.kind == "decide"), None)
    if first is None:
        return
    for chosen in by_length(samples):
        batch = padded([samples[index] for index in chosen], model.config.encoder.pad_token_id)
        state = model.embed(batch.input_ids, batch.token_type_ids, batch.mask)
        yield chosen, model.walk(state, model.steps[:first], model.decide_compacted, ends_at=model.steps[first])


@torch.no_grad()
def carried_rows(
    model: PrunedTransformer, samples: Sequence[Tokens], before: Iterable[tuple[list[int], State]] | None = None
) -> Tensor:
    """[samples, 1 + layers] int64: the real length, then the rows that each layer's decision carries on.

    These are the counts of the compacted execution, but nothing is computed that stands behind the last decision: of
    a model that decides early that is most of it.
    before: what `undecided` gives, if it is known already; the decisions themselves may have changed since.
    """
    lengths = torch.tensor([len(sample) for sample in samples])
    rows = lengths[:, None].repeat(1, 1 + model.config.encoder.layers)
    decisions = [place for place, step in enumerate(model.steps) if step.kind == "decide"]
    for chosen, state in undecided(model, samples) if before is None else before:

        def decide(layer: int, score: Tensor, before: State, chosen: list[int] = chosen) -> State:
            after = model.decide_compacted(layer, score, before)
            rows[chosen, 1 + layer :] = are_carried(after.alive).sum(-1, keepdim=True)
            return after

        model.walk(state, model.steps[decisions[0] : decisions[-1] + 1], decide)
    return rows
