"""Texts to token ids with the checkpoint's own tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Encoding, Tokenizer

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
    """Tokenises without padding; inputs are cut at `max_length` tokens, and `full_length` tells."""

    def __init__(self, tokenizer_json: Path, max_length: int, segments: int = 2, content: bytes | None = None) -> None:
        """`content` is that of the file, where it has been read already."""
        try:
            content = tokenizer_json.read_bytes() if content is None else content
            # Two of them: what a truncating tokenizer cut off a pair cannot be counted afterwards.
            self._cut, self._whole = (Tokenizer.from_buffer(content) for _ in range(2))
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise InputError(f"{tokenizer_json}: expected a tokenizer.json, found {error}") from None
        for tokenizer in (self._cut, self._whole):
            tokenizer.no_padding()
        self._cut.enable_truncation(max_length)
        self._whole.no_truncation()
        self._max_length, self._segments = max_length, segments
        self._special = self._cut.num_special_tokens_to_add(is_pair=False)

    def __call__(self, texts: Sequence[Text]) -> list[Tokens]:
        """Tokens of every text, in order. Raises InputError for the first that is no text."""
        try:
            encoded = self._cut.encode_batch_fast(list(texts))  # without the characters' offsets, which nobody reads
        except TypeError:
            place, problem = next((i, p) for i, p in enumerate(map(text_problem, texts), 1) if p is not None)
            raise InputError(f"text {place}: {problem}") from None
        return [self._tokens(text, item) for text, item in zip(texts, encoded, strict=True)]

    def _tokens(self, text: Text, item: Encoding) -> Tokens:
        ids = item.ids
        types = item.type_ids if self._segments > 1 else [0] * len(ids)
        return Tokens(ids, types, len(ids) + self._cut_off(text, item.overflowing))

    def _cut_off(self, text: Text, rest: list[Encoding]) -> int:
        """Tokens that truncation took; `rest` are the pieces behind the cut, each with special tokens of its own."""
        if rest and not isinstance(text, str):
            return len(self._whole.encode_batch_fast([text])[0].ids) - self._max_length
        return sum(len(piece.ids) - self._special for piece in rest)


def text_of(first: str, second: str | None) -> Text:
    """A text, or a pair of texts; an empty second one, such as of a row that ends in a separator, is none."""
    return (first, second) if second else first


def text_problem(text: object) -> str | None:
    """Why something is no `Text`, or None: its type, or an unpaired surrogate, which is no Unicode text."""
    parts = text if isinstance(text, tuple | list) and len(text) == 2 else (text,)
    for part in parts:
        if not isinstance(part, str):
            return f"expected a text or a pair of texts, found {type(part).__name__}"
        try:
            part.encode()
        except UnicodeEncodeError as error:
            return f"expected valid Unicode, found an unpaired surrogate at character {error.start}"
    return None
