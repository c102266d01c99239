"""What PyTorch computes for a set of texts, and gate 1: its masked simulation equals its compacted execution."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engines.artifact import Figures, Gate
from engines.tokenization import Tokens
from pipeline.graph.stages import decision_layers
from pipeline.model.reference import Reference
from pipeline.model.transformer import PrunedTransformer

EXECUTIONS_TOLERANCE = 1e-5
NOTHING_DECIDED = "every sample has a score within rounding of its threshold, so none could be compared"
"""Why a gate that excused all samples is SKIPPED and not PASSED."""


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


def near_threshold(model: PrunedTransformer, reference: Reference, index: int, width: float = 1e-2) -> bool:
    """Whether any score of a sample is so near its threshold (`width` roundings) that the two runs may differ there."""
    for layer in decision_layers(model):
        distance = (reference.score[index][layer] - model.pruner.threshold(layer)).abs()
        if bool((distance <= width * reference.rounding(layer)).any()):
            return True
    return False
