"""Random samples, every way to lay them out in a batch, and results that are comparable between layouts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from engines.tokenization import Tokens
from pipeline.model import PrunedTransformer

TOLERANCE = 1e-5
"""What two fp32 runs of the same sample may differ by, in logits and states of the order of 1."""
MARGIN = 2e-5
"""Decisions closer to their threshold than this (relative to a typical score) are rounding, not semantics."""


@dataclass(frozen=True)
class Result:
    """A sample's outputs at its own tokens, in order: [n, D], [layers, n], [layers, n] and [layers]."""

    logits: Tensor
    states: Tensor
    alive: Tensor
    score: Tensor
    counts: Tensor


def make_samples(model: PrunedTransformer, lengths: Sequence[int], seed: int) -> list[Tensor]:
    """Token ids [2, n] of samples of these lengths; row 1 holds the segment ids."""
    generator, encoder = torch.Generator().manual_seed(seed), model.config.encoder
    samples = []
    for length in lengths:
        ids = torch.randint(encoder.pad_token_id + 1, encoder.vocab_size, (length,), generator=generator)
        types = (torch.arange(length) > length // 2).long() if encoder.type_vocab_size > 1 else torch.zeros_like(ids)
        samples.append(torch.stack([ids, types]))
    return samples


def as_tokens(samples: Sequence[Tensor]) -> list[Tokens]:
    """The samples as a tokenizer gives them."""
    return [Tokens(sample[0].tolist(), sample[1].tolist(), sample.shape[1]) for sample in samples]


def lay_out(samples: Sequence[Tensor], length: int, places: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids, attention_mask, token_type_ids [B, length] with sample i's tokens at places[i].

    What stands in the padding is never to matter: it is a valid id that is none of the padding ids.
    """
    ids = torch.full((len(samples), length), 7)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (sample, at) in enumerate(zip(samples, places, strict=True)):
        columns = torch.tensor(list(at), dtype=torch.long)
        ids[row, columns], types[row, columns], mask[row, columns] = sample[0], sample[1], 1
    return ids, mask, types


def run(
    model: PrunedTransformer,
    samples: Sequence[Tensor],
    execution: str = "masked",
    length: int | None = None,
    places: Sequence[Sequence[int]] | None = None,
) -> list[Result]:
    """Every sample's result from one batch, padded to `length`; packed to the left if no places are given."""
    places = places or [range(sample.shape[1]) for sample in samples]
    length = length or max(sample.shape[1] for sample in samples)
    with torch.no_grad():
        out = model(*lay_out(samples, length, places), execution=execution)
    results = []
    for row, at in enumerate(torch.tensor(list(place), dtype=torch.long) for place in places):
        logits = out.logits[row][at] if model.config.head.token_level else out.logits[row]
        states, alive, score = (
            out.last_hidden_state[row][at],
            out.alive[:, row][:, at],
            out.score[:, row][:, at],
        )
        assert int(out.alive[:, row].sum()) == int(alive.sum()), "padding is alive"
        results.append(Result(logits, states, alive, score, out.counts[:, row]))
    return results


def assert_same(found: Sequence[Result], expected: Sequence[Result], tolerance: float = TOLERANCE) -> None:
    """The same decisions, and figures within the tolerance."""
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.alive, theirs.alive)
        assert torch.equal(ours.counts, theirs.counts)
        torch.testing.assert_close(ours.score, theirs.score, atol=tolerance, rtol=0, equal_nan=True)
        torch.testing.assert_close(ours.states, theirs.states, atol=tolerance, rtol=0)
        torch.testing.assert_close(ours.logits, theirs.logits, atol=tolerance, rtol=0)


def decision_margin(model: PrunedTransformer, samples: Sequence[Tensor]) -> float:
    """The smallest distance of an alive token's score from the other decision, over a typical score."""
    closest, original = math.inf, model.pruner.score
    method, heads = model.config.pruner.method, model.config.encoder.heads

    def score(layer: int, hidden: Tensor, mass: Tensor | None, alive: Tensor) -> Tensor:
        nonlocal closest
        value = original(layer, hidden, mass, alive)
        for row, living in enumerate(alive.bool()):
            if not living.any():
                continue
            if method == "topk":  # its scores are ranks; what may flip is the order of the mass at the cut
                ranked = mass[row][living].sort(descending=True).values / heads
                kept = int((value[row][living] >= 0).sum())
                distances = ranked[kept - 1 : kept] - ranked[kept : kept + 1]
            else:
                scale = model.config.pruner.reference_length or 1
                distances = (value[row][living] - model.pruner.threshold(layer)).abs() * scale
            closest = min([closest, *distances.tolist()])
        return value

    with mock.patch.object(model.pruner, "score", score):
        run(model, samples)
    return closest
