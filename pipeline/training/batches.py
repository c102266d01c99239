"""Tokenised examples in batches of similar length and a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.data import Example
from calib.labels import is_number, listed
from calib.ranking import by_query, queries_of
from engines.errors import InputError
from engines.tokenization import TextEncoder, Tokens
from pipeline.model.retention import padded


@dataclass(frozen=True)
class Batch:
    """input_ids, mask, token_type_ids [B, S]; target [B] (class index, or a float for regression and ranking).

    index [B]: the examples' places in their set. query [B]: the number of a ranking's query; else of the example.
    """

    input_ids: Tensor
    mask: Tensor
    token_type_ids: Tensor
    target: Tensor
    index: Tensor
    query: Tensor


class TokenisedSet:
    """Examples, tokenised once, with their targets."""

    def __init__(
        self,
        examples: Sequence[Example],
        encoder: TextEncoder,
        labels: Sequence[str] | None,
        pad_token_id: int,
        ranking: bool = False,
    ) -> None:
        """`labels` are the class names; None means that the labels are numbers.

        ranking: the pairs of one query go into one batch.
        """
        self.tokens: list[Tokens] = encoder([example.content for example in examples])
        self.pad_token_id = pad_token_id
        self.targets = torch.tensor(_targets([e.label for e in examples], labels))
        alone = [[place] for place in range(len(examples))]
        self.together = by_query(queries_of(examples)) if ranking else alone
        self.queries = torch.empty(len(examples), dtype=torch.int64)
        for number, places in enumerate(self.together):
            self.queries[places] = number

    def __len__(self) -> int:
        return len(self.tokens)

    def first(self, count: int) -> TokenisedSet:
        """The set of the first `count` examples."""
        part = copy(self)
        part.tokens, part.targets, part.queries = self.tokens[:count], self.targets[:count], self.queries[:count]
        part.together = [kept for places in self.together if (kept := [p for p in places if p < count])]
        return part

    def batches(self, max_tokens: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Batches of at most `max_tokens` padded tokens; shuffled if a generator is given, else in order of length."""
        for chosen in self.grouped(max_tokens, generator):
            yield self.collate(chosen)

    def collate(self, chosen: Sequence[int]) -> Batch:
        """The examples of these indices, padded on the right to the longest."""
        index = torch.tensor(list(chosen))
        batch = padded([self.tokens[i] for i in chosen], self.pad_token_id)
        return Batch(*batch, target=self.targets[index], index=index, query=self.queries[index])

    def grouped(self, max_tokens: int, generator: torch.Generator | None) -> list[list[int]]:
        """The indices of every batch, as `batches` makes them."""
        # A random jitter of a few tokens keeps lengths similar within a batch and batches different between epochs.
        together, length = self.together, [max(len(self.tokens[i]) for i in places) for places in self.together]
        jitter = torch.zeros(len(together)) if generator is None else torch.rand(len(together), generator=generator) * 8
        order = sorted(range(len(together)), key=lambda number: length[number] + float(jitter[number]))
        groups: list[list[int]] = [[]]
        longest = 0
        for number in order:
            longest = max(longest, length[number])
            if groups[-1] and longest * (len(groups[-1]) + len(together[number])) > max_tokens:
                groups.append([])
                longest = length[number]
            groups[-1] += together[number]
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
