"""Batches: every example once, within the token bound, padded and labelled as they should be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calib.data import Example
from engines.errors import InputError
from engines.tokenization import TextEncoder
from pipeline.training.batches import TokenisedSet


def tokenised(tokenizer: Path, lengths: list[int]) -> TokenisedSet:
    examples = [Example(" ".join(["w9"] * (n - 2)), "ab"[i % 2]) for i, n in enumerate(lengths)]
    return TokenisedSet(examples, TextEncoder(tokenizer, 32), ["a", "b"], pad_token_id=0)


@given(st.lists(st.integers(2, 30), min_size=1, max_size=30), st.integers(1, 100), st.booleans())
def test_every_example_is_in_one_batch_of_bounded_size(
    tiny_tokenizer: Path, lengths: list[int], max_tokens: int, shuffled: bool
) -> None:
    data = tokenised(tiny_tokenizer, lengths)
    generator = torch.Generator().manual_seed(0) if shuffled else None
    groups = data.grouped(max_tokens, generator)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= max_tokens


def test_shuffling_differs_between_epochs_and_repeats_with_the_seed(tiny_tokenizer: Path) -> None:
    data = tokenised(tiny_tokenizer, [5] * 40)
    generator = torch.Generator().manual_seed(7)
    epochs = [data.grouped(20, generator) for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert data.grouped(20, torch.Generator().manual_seed(7)) == epochs[0]


def test_a_batch_is_padded_to_its_longest(tiny_tokenizer: Path) -> None:
    pair = Example("w4", "b", "w5 w6")
    data = TokenisedSet([Example("w4 w5", "a"), pair], TextEncoder(tiny_tokenizer, 32), ["a", "b"], pad_token_id=7)
    batch = data.collate([1, 0])
    assert batch.input_ids.tolist() == [[2, 4, 3, 5, 6, 3], [2, 4, 5, 3, 7, 7]]
    assert batch.mask.tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0]]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 1, 1, 1], [0] * 6]
    assert batch.target.tolist() == [1, 0]
    assert batch.index.tolist() == [1, 0]


def test_targets_of_a_regression_are_numbers(tiny_tokenizer: Path) -> None:
    encoder = TextEncoder(tiny_tokenizer, 32)
    data = TokenisedSet([Example("w4", "-1.5"), Example("w5", "2")], encoder, None, pad_token_id=0)
    assert data.targets.tolist() == [-1.5, 2.0]
    assert data.targets.is_floating_point()
    with pytest.raises(InputError, match=r"expected numbers, found 'many', 'nan'"):
        TokenisedSet([Example("w4", label) for label in ("nan", "1", "many")], encoder, None, pad_token_id=0)


def test_a_label_that_training_has_not_seen_is_an_input_error(tiny_tokenizer: Path) -> None:
    examples = [Example("w4", "a"), Example("w4", "z"), Example("w4", "y")]
    with pytest.raises(InputError, match="expected only a, b, found also y, z"):
        TokenisedSet(examples, TextEncoder(tiny_tokenizer, 32), ["a", "b"], pad_token_id=0)
