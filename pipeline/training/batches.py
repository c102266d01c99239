"""Tokenised examples in batches of similar length and a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from calib.data import Example
from calib.ranking import by_query, queries_of
from engines.head import HeadKind
from engines.tokenization import TextEncoder
from pipeline.model.retention import padded
from pipeline.training.targets import IGNORED, targets_of


@dataclass(frozen=True)
class Batch:
    """input_ids, mask, token_type_ids [B, S]; target [B, ...] as `targets_of` has it, with IGNORED for padding.

    index [B]: the examples' numbers in their set. query [B]: the number of a ranking's query; else of the example.
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
        kind: HeadKind | None = None,
    ) -> None:
        """`labels` are the class names; None means that the labels are numbers.

        kind: of the head; of a ranking, the pairs of one query go into one batch. None: by `labels`.
        """
        self.examples, self.tokens = examples, encoder([example.content for example in examples])
        self.pad_token_id = pad_token_id
        kind = kind or ("classification" if labels is not None else "regression")
        targets = targets_of(kind, examples, self.tokens, labels)
        self.targets = targets if kind == "tagging" else torch.stack(targets)
        alone = [[index] for index in range(len(examples))]
        self.together = by_query(queries_of(examples)) if kind == "ranking" else alone
        self.queries = torch.empty(len(examples), dtype=torch.int64)
        for number, members in enumerate(self.together):
            self.queries[members] = number
        self.against: list[np.ndarray] | None = None
        """The embeddings that those of the examples are to agree with."""

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
        if isinstance(self.targets, Tensor):
            target = self.targets[index]
        else:
            target = pad_sequence([self.targets[i] for i in chosen], batch_first=True, padding_value=IGNORED)
        return Batch(*batch, target=target, index=index, query=self.queries[index])

    def grouped(self, max_tokens: int, generator: torch.Generator | None) -> list[list[int]]:
        """The indices of every batch, as `batches` makes them."""
        # A random jitter of a few tokens keeps lengths similar within a batch and batches different between epochs.
        together, length = self.together, [max(len(self.tokens[i]) for i in members) for members in self.together]
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
