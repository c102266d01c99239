"""Tokenised examples in batches of similar length and a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.data import Example
from calib.labels import is_number, listed
from engines.errors import InputError
from engines.tokenization import TextEncoder, Tokens
from pipeline.model.retention import padded


@dataclass(frozen=True)
class Batch:
    """input_ids, mask, token_type_ids [B, S]; target [B] (class index, or a float for regression); index [B]."""

    input_ids: Tensor
    mask: Tensor
    token_type_ids: Tensor
    target: Tensor
    index: Tensor


class TokenisedSet:
    """Examples, tokenised once, with their targets."""

    def __init__(
        self,
        examples: Sequence[Example],
        encoder: TextEncoder,
        labels: Sequence[str] | None,
        pad_token_id: int,
    ) -> None:
        """`labels` are the class names; None means regression, with the label text read as a number."""
        self.tokens: list[Tokens] = encoder([example.content for example in examples])
        self.pad_token_id = pad_token_id
        self.targets = torch.tensor(_targets([e.label for e in examples], labels))

    def __len__(self) -> int:
        return len(self.tokens)

    def batches(self, max_tokens: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Batches of at most `max_tokens` padded tokens; shuffled if a generator is given, else in order of length."""
        for chosen in self.grouped(max_tokens, generator):
            yield self.collate(chosen)

    def collate(self, chosen: Sequence[int]) -> Batch:
        """The examples of these indices, padded on the right to the longest."""
        index = torch.tensor(list(chosen))
        batch = padded([self.tokens[i] for i in chosen], self.pad_token_id)
        return Batch(*batch, target=self.targets[index], index=index)

    def grouped(self, max_tokens: int, generator: torch.Generator | None) -> list[list[int]]:
        """The indices of every batch, as `batches` makes them."""
        # A random jitter of a few tokens keeps lengths similar within a batch and batches different between epochs.
        jitter = torch.zeros(len(self)) if generator is None else torch.rand(len(self), generator=generator) * 8
        order = sorted(range(len(self)), key=lambda i: len(self.tokens[i]) + float(jitter[i]))
        groups: list[list[int]] = [[]]
        for index in order:
            longest = max([len(self.tokens[i]) for i in groups[-1]] + [len(self.tokens[index])])
            if groups[-1] and longest * (len(groups[-1]) + 1) > max_tokens:
                groups.append([])
            groups[-1].append(index)
        if generator is not None:
            groups = [groups[i] for i in torch.randperm(len(groups), generator=generator)]
        return [group for group in groups if group]


@dataclass(frozen=True)
class Sets:
    """The training set and the dev set of a run."""

    train: TokenisedSet
    dev: TokenisedSet


def _targets(found: Sequence[str], labels: Sequence[str] | None) -> list[float] | list[int]:
    if labels is None:
        if wrong := sorted({label for label in found if not is_number(label)}):
            raise InputError(f"labels: expected numbers, found {listed([repr(label) for label in wrong])}")
        return [float(label) for label in found]
    number = {name: index for index, name in enumerate(labels)}
    unknown = sorted(set(found) - number.keys())
    if unknown:
        raise InputError(f"labels: expected only {listed(labels)}, found also {listed(unknown)}")
    return [number[label] for label in found]
