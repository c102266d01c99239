"""Gate 3: running free, the engines keep the tokens that the reference keeps, and give its labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engines.manifest import Figures, Gate
from engines.prediction import SampleResult
from pipeline.gates.expected import Expected
from pipeline.gates.verdict import verdict
from pipeline.graph.stages import decision_layers
from pipeline.model.answers import same_answer
from pipeline.model.reference import Reference
from pipeline.model.rounding import CHAIN, moved_near


def decision_parity(expected: Expected, results: Sequence[SampleResult], rounded: Reference | None = None) -> Gate:
    """Compares alive sets at every cut, sample by sample.

    rounded: what PyTorch gives in the engines' precision, where that is not fp32; rounding is then what it moved the
    sample's scores near the threshold by, and its answer.

    A token whose alive bit differs is a flip. A flip is excused if its score lies within rounding of the threshold;
    from there on the sample's states differ, so its later flips and its answer are counted but not judged. Any other
    flip fails, and so does another answer without a flip, unless the reference itself is within rounding of a tie.
    """
    model, reference, head = expected.model, expected.reference, expected.model.config.head
    width = {layer: CHAIN * reference.score_scale(layer) for layer in decision_layers(model)}

    def near(index: int, layer: int) -> torch.Tensor:
        """[length] bool: whether the tokens' scores lie within rounding of the layer's threshold."""
        score, threshold = reference.score[index][layer], model.pruner.threshold(layer)
        moved = 0.0 if rounded is None else float(moved_near(score, rounded.score[index][layer], threshold))
        return (score - threshold).abs() <= max(width[layer], moved)

    moves = [0.0] * len(results) if rounded is None else reference.answer_moves(rounded)
    tokens = flips = near_flips = agreeing = 0
    failed: list[str] = []
    for index, result in enumerate(results):
        answer, found = reference.logits[index], torch.from_numpy(result.logits)
        agreeing += same_answer(head, answer, found)
        blurred = False
        for spec, survivors in zip(expected.specs, result.survivors, strict=True):
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
        if not blurred and not same_answer(head, answer, found, moves[index]):
            failed.append(f"sample {index}: the same tokens, but another answer")
    figures: Figures = {
        "samples": len(results),
        "decisions": tokens,
        "flips": flips,
        "flip_rate": flips / max(1, tokens),
        "flips_within_rounding_of_threshold": near_flips,
        "label_agreement": agreeing / max(1, len(results)),
    }
    return verdict("decisions", figures, failed)
