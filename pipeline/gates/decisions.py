"""Gate 3: running free, the engines keep the tokens that the reference keeps, and give its labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engines.artifact import Figures, Gate
from engines.prediction import SampleResult
from pipeline.graph.stages import StageSpec, decision_layers
from pipeline.model.reference import Reference
from pipeline.model.transformer import PrunedTransformer

_TIE = 1e-3
"""Answers are the same within this share of the logits' scale: what rounding adds up to over all layers."""


def decision_parity(
    model: PrunedTransformer,
    specs: Sequence[StageSpec],
    reference: Reference,
    results: Sequence[SampleResult],
    rounded: Reference | None = None,
) -> Gate:
    """Compares alive sets at every cut, sample by sample.

    rounded: what PyTorch gives in the engines' precision, where that is not fp32; rounding is then what it moved the
    sample's scores near the threshold by, and its answer.

    A token whose alive bit differs is a flip. A flip is excused if its score lies within rounding of the threshold;
    from there on the sample's states differ, so its later flips and its answer are counted but not judged. Any other
    flip fails, and so does another answer without a flip, unless the reference itself is within rounding of a tie.
    """
    width = {layer: reference.rounding(layer) for layer in decision_layers(model)}

    def near(index: int, layer: int) -> torch.Tensor:
        """[length] bool: whether the tokens' scores lie within rounding of the layer's threshold."""
        threshold = model.pruner.threshold(layer)
        moved = 0.0 if rounded is None else reference.score_moves(index, layer, threshold, rounded)
        return (reference.score[index][layer] - threshold).abs() <= max(width[layer], moved)

    moves = [0.0] * len(results) if rounded is None else reference.answer_moves(rounded)
    tokens = flips = near_flips = agreeing = 0
    failed: list[str] = []
    for index, result in enumerate(results):
        expected, found = reference.logits[index], torch.from_numpy(result.logits)
        agreeing += _same_answer(model, expected, found)
        blurred = False
        for spec, survivors in zip(specs, result.survivors, strict=True):
            layers = [step.layer for step in spec.steps if step.kind == "decide"]
            alive = reference.alive[index][layers[-1] if layers else -1]
            ours = torch.zeros_like(alive)
            ours[torch.from_numpy(survivors).long()] = True
            different = torch.nonzero(ours != alive).flatten().tolist()
            tokens += alive.numel()
            flips += len(different)
            excused = [token for token in different if any(near(index, layer)[token] for layer in layers)]
            near_flips += len(excused)
            if different and not blurred and len(excused) < len(different):
                failed.append(f"{spec.name}, sample {index}: token {min(set(different) - set(excused))}")
            blurred = blurred or bool(different)
        if not blurred and not _same_answer(model, expected, found, max(_TIE * _scale(expected), moves[index])):
            failed.append(f"sample {index}: the same tokens, but another answer")
    figures: Figures = {
        "samples": len(results),
        "decisions": tokens,
        "flips": flips,
        "flip_rate": flips / max(1, tokens),
        "flips_within_rounding_of_threshold": near_flips,
        "label_agreement": agreeing / max(1, len(results)),
    }
    if failed:
        reason = f"{len(failed)} difference(s) beyond rounding: {'; '.join(failed[:3])}"
        return Gate(name="decisions", status="FAILED", reason=reason, figures=figures)
    return Gate(name="decisions", status="PASSED", figures=figures)


def _same_answer(model: PrunedTransformer, expected: torch.Tensor, found: torch.Tensor, tie: float = 0.0) -> bool:
    """The same labels, or labels whose expected logits are at most `tie` apart; for regression values that are."""
    if model.config.head.kind == "regression":
        return bool((expected - found).abs().max() <= max(tie, _TIE * _scale(expected)))
    chosen = expected.gather(-1, found.argmax(-1, keepdim=True)).squeeze(-1)
    return bool((expected.amax(-1) - chosen <= tie).all())


def _scale(logits: torch.Tensor) -> float:
    return max(1.0, float(logits.abs().max()))
