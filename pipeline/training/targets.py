"""What each kind of head learns from an example, as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from calib.data import Example
from calib.labels import is_number, listed
from calib.targets import KIND_OF, Answers, Labels, Spans, target_names
from engines.entities import OUTSIDE
from engines.errors import InputError
from engines.head import HeadKind
from engines.tokenization import Tokens

IGNORED = -100
"""The class of tokens that nothing is learned from."""


def targets_of(
    kind: HeadKind, examples: Sequence[Example], tokens: Sequence[Tokens], labels: Sequence[str] | None
) -> list[Tensor]:
    """The target of each example: a class or a number, [], 0 or 1 for each label, [labels], a class for each token,
    [length], or the first and the last token of an answer, [2].

    labels: the names of the classes; None: the labels are numbers. Raises InputError for labels that are none of them.
    """
    if kind == "embedding":
        return [torch.zeros(())] * len(examples)
    if kind not in KIND_OF.values():
        return list(torch.tensor(_single([example.label for example in examples], labels)))
    targets = [example.target for example in examples]
    if wrong := [n for n, target in enumerate(targets, 1) if target is None or KIND_OF[type(target)] != kind]:
        raise InputError(f"labels: expected those of a {kind} head, found others in row {wrong[0]}")
    unknown = sorted(set(target_names(target for target in targets if target is not None)) - set(labels or ()))
    if unknown:
        raise InputError(f"labels: expected only {listed(labels or [])}, found also {listed(unknown)}")
    number = {name: index for index, name in enumerate(labels or ())}
    return [_target(example, sample, number) for example, sample in zip(examples, tokens, strict=True)]


def _target(example: Example, sample: Tokens, number: dict[str, int]) -> Tensor:
    target = example.target
    if isinstance(target, Labels):
        wanted = torch.zeros(len(number))
        wanted[[number[name] for name in target.names]] = 1
        return wanted
    if isinstance(target, Spans):
        return _tags(target, sample, number)
    assert isinstance(target, Answers)
    return _ends(target, sample)


def _tags(target: Spans, sample: Tokens, number: dict[str, int]) -> Tensor:
    """The tag of every token of the first text; special ones and those of a second text are ignored."""
    assert sample.origin is not None
    tags = torch.full((len(sample),), IGNORED)
    begun: set[int] = set()
    for token in sample.origin.of_part(0):
        start, end = sample.origin.spans[token]
        inside = [n for n, (first, last, _) in enumerate(target.spans) if first < end and start < last]
        if not inside:
            tags[token] = number[OUTSIDE]
            continue
        span = inside[0]
        tags[token] = number[f"{'I' if span in begun else 'B'}-{target.spans[span][2]}"]
        begun.add(span)
    return tags


def _ends(target: Answers, sample: Tokens) -> Tensor:
    """The first and the last token of the first answer that was not cut off; else the first token of all, twice."""
    assert sample.origin is not None
    origin = sample.origin
    context = origin.of_part(len(origin.texts) - 1)
    for start, answer in target.spans:
        within = [n for n in context if origin.spans[n][0] < start + len(answer) and start < origin.spans[n][1]]
        if within and origin.spans[within[-1]][1] >= start + len(answer):
            return torch.tensor([within[0], within[-1]])
    return torch.tensor([0, 0])


def _single(given: Sequence[str], labels: Sequence[str] | None) -> list[float] | list[int]:
    if labels is None:
        if wrong := sorted({label for label in given if not is_number(label)}):
            raise InputError(f"labels: expected numbers, found {listed([repr(label) for label in wrong])}")
        return [float(label) for label in given]
    number = {name: index for index, name in enumerate(labels)}
    unknown = sorted(set(given) - number.keys())
    if unknown:
        raise InputError(f"labels: expected only {listed(labels)}, found also {listed(unknown)}")
    return [number[label] for label in given]
