"""What PyTorch computes for a set of texts, and gate 1: its masked simulation equals its compacted execution."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.artifact import Figures, Gate
from engines.tokenization import Tokens
from pipeline.graph.evaluate import NEAREST
from pipeline.graph.stages import decision_layers
from pipeline.model.flops import flops_ratio
from pipeline.model.retention import by_length, padded
from pipeline.model.transformer import Execution, Output, PrunedTransformer

EXECUTIONS_TOLERANCE = 1e-5
_WIDTH = 1e-2
"""Roundings from a threshold within which the two executions may decide differently."""
NOTHING_DECIDED = "every sample has a score within rounding of its threshold, so none could be compared"
"""Why a gate that excused all samples is SKIPPED and not PASSED."""


@dataclass(frozen=True)
class Reference:
    """The reference's results, one entry per sample in the order of the texts.

    logits [classes] or [length, classes]; alive [layers, length] bool; score [layers, length]; counts [layers].
    """

    samples: Sequence[Tokens]
    logits: list[Tensor]
    alive: list[Tensor]
    score: list[Tensor]
    counts: list[Tensor]

    @classmethod
    def of(cls, model: PrunedTransformer, samples: Sequence[Tokens], execution: Execution = "compacted") -> Reference:
        """Runs the model over the samples, in batches of similar length."""
        results: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        for chosen in by_length(samples):
            out = run_batch(model, [samples[index] for index in chosen], execution)
            for place, index in enumerate(chosen):
                n = len(samples[index])
                logits = out.logits[place, :n] if out.logits.dim() == 3 else out.logits[place]
                results[index] = (
                    logits,
                    out.alive[:, place, :n],
                    out.score[:, place, :n],
                    out.counts[:, place],
                )
        columns = zip(*(results[index] for index in range(len(samples))), strict=True)
        return cls(samples, *(list(column) for column in columns))

    def first(self, count: int) -> Reference:
        """The results of the first `count` samples."""
        lists = (self.samples, self.logits, self.alive, self.score, self.counts)
        return Reference(*(values[:count] for values in lists))  # type: ignore[arg-type]

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

    def rounding(self, layer: int) -> float:
        """How near to the threshold a score must be for its decision to be a matter of rounding in fp32: 1e-4 of the
        median distance between scores and threshold would be too tight for chains of layers, so 1e-3 of the score's
        scale."""
        values = torch.cat([score[layer][~torch.isnan(score[layer])] for score in self.score])
        return 1e-3 * float(values.abs().median()) if len(values) else 0.0

    def score_moves(self, index: int, layer: int, threshold: float, rounded: Reference) -> float:
        """Twice the most by which, in a narrower precision, a score of the sample moved that is among the nearest to
        the threshold: what rounds in other places may move it as far the other way."""
        ours, theirs = self.score[index][layer], rounded.score[index][layer]
        moved = (ours - theirs).abs()  # NaN where either has lost the token
        gap = torch.where(moved.isnan(), torch.inf, (ours - threshold).abs())
        nearest = gap.topk(min(NEAREST, len(gap)), largest=False).indices
        return 2 * float(moved[nearest].nan_to_num().max())

    def answer_moves(self, rounded: Reference) -> list[float]:
        """Per sample, twice what a narrower precision moved its answer by, and no less than what it moved half of the
        samples by: one answer may have hardly moved by chance.

        An answer moves by the most that the gap between two of its logits changes, since a gap decides on a label; one
        that is a value moves by what the value does. What it moves by does not grow with the logits, which differ in
        what the head reads more than in how exactly.
        """
        moved = []
        for ours, theirs in zip(self.logits, rounded.logits, strict=True):
            change = ours - theirs
            gaps = change.abs() if change.shape[-1] == 1 else change.amax(-1) - change.amin(-1)
            moved.append(float(gaps.max()))
        return [2 * max(move, statistics.median(moved)) for move in moved]


@torch.no_grad()
def run_batch(model: PrunedTransformer, samples: Sequence[Tokens], execution: Execution) -> Output:
    """The model on a padded batch."""
    return model(*padded(samples, model.config.encoder.pad_token_id), execution=execution)


def reference_parity(model: PrunedTransformer, samples: Sequence[Tokens], reference: Reference) -> Gate:
    """Gate 1. `reference` is the compacted run; the masked one must agree to 1e-5 in fp32 and keep the same tokens.

    A sample with a score within rounding of its threshold may decide either way and is counted apart.
    """
    masked = Reference.of(model, samples, "masked")
    worst, undecided, failed = 0.0, 0, []
    for index in range(len(samples)):
        if near_threshold(model, reference, index):
            undecided += 1
            continue
        difference = float((masked.logits[index] - reference.logits[index]).abs().max())
        worst = max(worst, difference)
        same_tokens = torch.equal(masked.alive[index], reference.alive[index])
        if not difference <= EXECUTIONS_TOLERANCE or not same_tokens:  # also NaN
            failed.append(index)
    figures: Figures = {
        "samples": len(samples),
        "largest_difference": worst,
        "within_rounding_of_threshold": undecided,
    }
    if failed:
        reason = f"masked and compacted execution disagree for sample {failed[0]} and {len(failed) - 1} more"
        return Gate(name="reference", status="FAILED", reason=reason, figures=figures)
    if undecided == len(samples):
        return Gate(name="reference", status="SKIPPED", reason=NOTHING_DECIDED, figures=figures)
    return Gate(name="reference", status="PASSED", figures=figures)


def near_threshold(model: PrunedTransformer, reference: Reference, index: int) -> bool:
    """Whether any score of a sample is so near its threshold that the two runs may differ there."""
    for layer in decision_layers(model):
        distance = (reference.score[index][layer] - model.pruner.threshold(layer)).abs()
        if bool((distance <= _WIDTH * reference.rounding(layer)).any()):
            return True
    return False
