"""What PyTorch computes for a set of texts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.head import Head
from engines.tokenization import Tokens
from pipeline.model.answers import answer_move
from pipeline.model.flops import flops_ratio
from pipeline.model.retention import by_length, padded
from pipeline.model.rounding import scale
from pipeline.model.transformer import Execution, Output, PrunedTransformer


@dataclass(frozen=True)
class Reference:
    """The reference's results, one entry per sample in the order of the texts.

    logits [outputs] or [length, outputs]; alive [layers, length] bool; score [layers, length]; counts [layers].
    """

    samples: Sequence[Tokens]
    logits: list[Tensor]
    alive: list[Tensor]
    score: list[Tensor]
    counts: list[Tensor]
    head: Head

    @classmethod
    def of(cls, model: PrunedTransformer, samples: Sequence[Tokens], execution: Execution = "compacted") -> Reference:
        """Runs the model over the samples, in batches of similar length."""
        results: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        for chosen in by_length(samples):
            out = run_batch(model, [samples[index] for index in chosen], execution)
            for row, index in enumerate(chosen):
                n = len(samples[index])
                results[index] = (
                    out.logits[row, :n] if out.logits.dim() == 3 else out.logits[row],
                    out.alive[:, row, :n],
                    out.score[:, row, :n],
                    out.counts[:, row],
                )
        columns = zip(*(results[index] for index in range(len(samples))), strict=True)
        logits, alive, score, counts = (list(column) for column in columns)
        return cls(samples, logits, alive, score, counts, model.config.head)

    def first(self, count: int) -> Reference:
        """The results of the first `count` samples."""
        lists = {name: value[:count] for name, value in vars(self).items() if name != "head"}
        return Reference(**lists, head=self.head)

    @property
    def rows(self) -> Tensor:
        """[samples, 1 + layers]: the real length, then the rows that each layer's decision carries on."""
        lengths = torch.tensor([len(item) for item in self.samples])
        return torch.column_stack([lengths, torch.stack(self.counts)])

    def mean_rows(self) -> list[float]:
        """The mean of `rows` over the samples."""
        return self.rows.double().mean(0).tolist()

    def flops_ratio(self, model: PrunedTransformer) -> float:
        """Dense FLOPs over pruned FLOPs of all samples together, padding not counted."""
        return flops_ratio(model.config, self.rows)

    def score_scale(self, layer: int) -> float:
        """The median magnitude of a layer's scores over all samples."""
        return scale(torch.cat([score[layer] for score in self.score]))

    def answer_moves(self, rounded: Reference) -> list[float]:
        """Per sample, twice what a narrower precision moved its answer by, see `answer_move`, and no less than what it
        moved half of the samples by: one answer may have hardly moved by chance.
        """
        pairs = zip(self.logits, rounded.logits, strict=True)
        moved = [answer_move(self.head, ours, theirs) for ours, theirs in pairs]
        return [2 * max(move, statistics.median(moved)) for move in moved]


@torch.no_grad()
def run_batch(model: PrunedTransformer, samples: Sequence[Tokens], execution: Execution) -> Output:
    """The model on a padded batch."""
    return model(*padded(samples, model.config.encoder.pad_token_id), execution=execution)
