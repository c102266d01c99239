"""What PyTorch computes for a set of texts, and gate 1: its masked simulation equals its compacted execution."""

from __future__ import annotations

import math

import torch

from engines.manifest import Figures, Gate
from pipeline.gates.verdict import verdict
from pipeline.graph.stages import decision_layers
from pipeline.model.reference import Reference
from pipeline.model.rounding import EXECUTIONS
from pipeline.model.transformer import PrunedTransformer

EXECUTIONS_TOLERANCE = 1e-5
"""Largest difference of a logit, in units of the largest logit if that is above 1: rounding grows with the numbers."""
NOTHING_DECIDED = "every sample has a score within rounding of its threshold, so none could be compared"
"""Why a gate that excused all samples is SKIPPED and not PASSED."""


def reference_parity(model: PrunedTransformer, reference: Reference) -> Gate:
    """Gate 1. `reference` is the compacted run; the masked one must agree to 1e-5 in fp32 and keep the same tokens.

    The 1e-5 are of the largest logit of all samples, if that is above 1: a reranker's may be 10.
    A sample with a score within rounding of its threshold may decide either way and is counted apart.
    """
    samples = reference.samples
    masked = Reference.of(model, samples, "masked")
    largest = max(float(logits.abs().max()) for logits in reference.logits)
    tolerance = EXECUTIONS_TOLERANCE * max(1.0, largest if math.isfinite(largest) else 1.0)
    worst, undecided, failed = 0.0, 0, []
    for index in range(len(samples)):
        if _undecided(model, reference, index):
            undecided += 1
            continue
        difference = float((masked.logits[index] - reference.logits[index]).abs().max())
        worst = max(worst, difference)
        same_tokens = torch.equal(masked.alive[index], reference.alive[index])
        if not difference <= tolerance or not same_tokens:  # also NaN
            failed.append(index)
    figures: Figures = {
        "samples": len(samples),
        "largest_difference": worst,
        "tolerance": tolerance,
        "within_rounding_of_threshold": undecided,
    }
    failures = []
    if failed:
        failures.append(f"masked and compacted execution disagree for sample {failed[0]} and {len(failed) - 1} more")
    return verdict("reference", figures, failures, NOTHING_DECIDED if undecided == len(samples) else None)


def _undecided(model: PrunedTransformer, reference: Reference, index: int) -> bool:
    """Whether any score of a sample is so near its threshold that the two executions may differ there."""
    for layer in decision_layers(model):
        distance = (reference.score[index][layer] - model.pruner.threshold(layer)).abs()
        if bool((distance <= EXECUTIONS * reference.score_scale(layer)).any()):
            return True
    return False
