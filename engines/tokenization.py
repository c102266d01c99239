"""Texts to token ids with the checkpoint's own tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from engines.errors import InputError

Text = str | tuple[str, str]
"""One text, or a pair such as (premise, hypothesis)."""


@dataclass(frozen=True)
class Tokens:
    """One tokenised input: ids and segment ids of equal length, and how long it was before any truncation."""

    input_ids: list[int]
    token_type_ids: list[int]
    full_length: int

    def __len__(self) -> int:
        return len(self.input_ids)


class TextEncoder:
    """Tokenises without padding; longer inputs than `max_length` tokens are cut there, and `full_length` tells."""

    def __init__(self, tokenizer_json: Path, max_length: int, segments: int = 2) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise InputError(f"{tokenizer_json}: expected a tokenizer.json, found {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self._segments = segments

    def __call__(self, texts: Sequence[Text]) -> list[Tokens]:
        """Tokens of every text, in order."""
        encoded = []
        for item in self._tokenizer.encode_batch(list(texts)):
            lost = sum(len(part.ids) - _special(part) for part in item.overflowing)
            types = item.type_ids if self._segments > 1 else [0] * len(item.ids)
            encoded.append(Tokens(item.ids, types, len(item.ids) + lost))
        return encoded


def _special(part) -> int:  # type: ignore[no-untyped-def]
    return sum(part.special_tokens_mask)
