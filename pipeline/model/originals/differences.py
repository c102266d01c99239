"""How often a converted model answers otherwise than the original's code does, on given texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engines.tokenization import Tokens
from pipeline.model.originals.execution import Run, is_run, run_ltp, run_transkimmer
from pipeline.model.reference import Reference
from pipeline.model.retention import PaddedBatch, padded
from pipeline.model.transformer import PrunedTransformer

_BATCH = 8
_SAME = 1e-3
"""What a value may move by and be the same answer."""
Answers = list[tuple[Tensor, Tensor]]
"""Of each text logits, [classes] or [length, classes], and what lives behind each layer, [layers, length]."""


class Difference(NamedTuple):
    """Of the texts, the shares whose label and whose kept tokens are others; `what` was compared, in words.

    Of a regression it is the value, by more than 0.001; of a token-level head the label of any token.
    """

    what: str
    labels: float
    kept: float

    def __str__(self) -> str:
        return f"{self.what}: another label in {self.labels:.1%} of the texts, other tokens kept in {self.kept:.1%}"


def differences(model: PrunedTransformer, samples: Sequence[Tokens]) -> list[Difference]:
    """SkimRT's execution against each way in which the original's code runs; none for a family that it does not know.

    The original runs batches of 8 in the order of the texts.
    """
    pruner = model.config.pruner
    if not is_run(model):
        return []
    reference = Reference.of(model, samples)
    ours = list(zip(reference.logits, reference.alive, strict=True))
    if pruner.method == "transkimmer":
        quiet = _answers(model, samples, run_transkimmer)
        draws = [_answers(model, samples, _noisy(seed)) for seed in (0, 1)]
        return [
            _difference("SkimRT and the original's master without its noise", ours, quiet),
            _difference("SkimRT and the original's master with its noise", ours, draws[0]),
            _difference("two runs of the original's master, by its noise", *draws),
        ]
    compared = []
    if pruner.reference_length is not None:
        fixed = _answers(model, samples, run_ltp, pruner.reference_length)
        both = f"SkimRT and the original at {pruner.reference_length} padded tokens"
        compared.append(_difference(both, ours, fixed))
    longest = _answers(model, samples, run_ltp)
    compared.append(_difference("SkimRT and the original, padded to the longest of a batch", ours, longest))
    if not pruner.protect_first:
        kept = Reference.of(_protecting(model), samples)
        protected = list(zip(kept.logits, kept.alive, strict=True))
        compared.append(_difference("SkimRT as converted and with the first token protected", ours, protected))
    return compared


def first_dies(model: PrunedTransformer, samples: Sequence[Tokens]) -> float:
    """The share of texts whose first token, which the head reads, does not live to the end."""
    alive = Reference.of(model, samples).alive
    return sum(not bool(one[-1, 0]) for one in alive) / len(alive)


def _answers(
    model: PrunedTransformer, samples: Sequence[Tokens], run: Callable[..., Run], length: int | None = None
) -> Answers:
    """The original's answers; texts are padded to `length`, or to the longest of their batch."""
    answers: Answers = []
    for batch, lengths in _batches(model, samples, length):
        out = run(model, batch)
        for row, n in enumerate(lengths):
            logits = out.logits[row, :n] if out.logits.dim() == 3 else out.logits[row]
            answers.append((logits, out.alive[:, row, :n]))
    return answers


def _batches(
    model: PrunedTransformer, samples: Sequence[Tokens], length: int | None
) -> Iterator[tuple[PaddedBatch, list[int]]]:
    padding = model.config.encoder.pad_token_id
    for start in range(0, len(samples), _BATCH):
        chosen = samples[start : start + _BATCH]
        batch = padded(chosen, padding)
        more = max(0, (length or 0) - batch.mask.shape[1])
        ids, mask, types = (
            F.pad(part, (0, more), value=value) for part, value in zip(batch, (padding, 0, 0), strict=True)
        )
        yield PaddedBatch(ids, mask, types), [len(sample) for sample in chosen]


def _noisy(seed: int) -> Callable[[PrunedTransformer, PaddedBatch], Run]:
    noise = torch.Generator().manual_seed(seed)
    return lambda model, batch: run_transkimmer(model, batch, noise)


def _protecting(model: PrunedTransformer) -> PrunedTransformer:
    """The same model, but that its first token always lives."""
    pruner = model.config.pruner.model_copy(update={"protect_first": True})
    other = PrunedTransformer(model.config.model_copy(update={"pruner": pruner}))
    other.load_state_dict(model.state_dict())
    return other.eval()


def _difference(what: str, ours: Answers, theirs: Answers) -> Difference:
    pairs = list(zip(ours, theirs, strict=True))
    labels = sum(not _same_answer(one[0], other[0]) for one, other in pairs)
    kept = sum(not torch.equal(one[1], other[1]) for one, other in pairs)
    return Difference(what, labels / len(pairs), kept / len(pairs))


def _same_answer(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape[-1] == 1:
        return bool((ours - theirs).abs().max() <= _SAME)
    return torch.equal(ours.argmax(-1), theirs.argmax(-1))
