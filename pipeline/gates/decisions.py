"""Gate 3: running free, the engines keep the tokens that the reference keeps, and give its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from engines.artifact import Gate
from engines.prediction import SampleResult
from pipeline.gates.reference import Reference
from pipeline.graph.stages import StageSpec, decision_layers
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

    rounded: what PyTorch gives in the engines' precision, where that is not fp32; rounding is then what it moved scores
    and answers by, as long as it kept the same tokens.

    A token whose alive bit differs is a flip. A flip is excused if its score lies within rounding of the threshold;
    from there on the sample's states differ, so its later flips and its answer are counted but not judged. Any other
    flip fails, and so does another answer without a flip, unless the reference itself is within rounding of a tie.
    """
    rounding = {layer: reference.rounding(layer, rounded) for layer in decision_layers(model)}
    tie = _TIE if rounded is None else max(_TIE, reference.answer_rounding(rounded))
    tokens = flips = near = agreeing = 0
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
            excused = [token for token in different if _is_near(model, reference, rounding, index, layers, token)]
            near += len(excused)
            if different and not blurred and len(excused) < len(different):
                failed.append(f"stage_{spec.index}, sample {index}: token {min(set(different) - set(excused))}")
            blurred = blurred or bool(different)
        if not blurred and not _same_answer(model, expected, found, tie):
            failed.append(f"sample {index}: the same tokens, but another answer")
    figures: dict[str, float | int | str] = {
        "samples": len(results),
        "decisions": tokens,
        "flips": flips,
        "flip_rate": flips / max(1, tokens),
        "flips_within_rounding_of_threshold": near,
        "label_agreement": agreeing / max(1, len(results)),
    }
    if failed:
        reason = f"{len(failed)} difference(s) beyond rounding: {'; '.join(failed[:3])}"
        return Gate(name="decisions", status="FAILED", reason=reason, figures=figures)
    return Gate(name="decisions", status="PASSED", figures=figures)


def _is_near(
    model: PrunedTransformer,
    reference: Reference,
    rounding: Mapping[int, float],
    index: int,
    layers: Sequence[int],
    token: int,
) -> bool:
    """Whether the token's score was within rounding of the threshold at any decision of the stage."""
    for layer in layers:
        distance = abs(float(reference.score[index][layer][token]) - model.pruner.threshold(layer))
        if distance <= rounding[layer]:
            return True
    return False


def _same_answer(model: PrunedTransformer, expected: torch.Tensor, found: torch.Tensor, tie: float = 0.0) -> bool:
    """The same labels, or labels whose expected logits differ by at most `tie` of their scale; for regression the same
    value to 1e-3."""
    scale = max(1.0, float(expected.abs().max()))
    if model.config.head.kind == "regression":
        return bool((expected - found).abs().max() <= _TIE * scale)
    chosen = expected.gather(-1, found.argmax(-1, keepdim=True)).squeeze(-1)
    return bool((expected.amax(-1) - chosen <= tie * scale).all())
