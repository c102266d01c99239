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

    def __init__(self, tokenizer_json: Path, max_length: int, segments: int = 2) -> None:
        try:
            # Two of them: what a truncating tokenizer cut off a pair cannot be counted afterwards.
            self._whole, self._cut = (Tokenizer.from_file(str(tokenizer_json)) for _ in range(2))
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise InputError(f"{tokenizer_json}: expected a tokenizer.json, found {error}") from None
        for tokenizer in (self._whole, self._cut):
            tokenizer.no_padding()
        self._whole.no_truncation()
        self._cut.enable_truncation(max_length)
        self._max_length, self._segments = max_length, segments

    def __call__(self, texts: Sequence[Text]) -> list[Tokens]:
        """Tokens of every text, in order. Raises InputError for the first that is no text."""
        try:  # "fast" leaves out the characters' offsets, which nobody reads
            whole = self._whole.encode_batch_fast(list(texts))
        except TypeError:
            place, problem = next((i, p) for i, p in enumerate(map(text_problem, texts), 1) if p is not None)
            raise InputError(f"text {place}: {problem}") from None
        long = [place for place, item in enumerate(whole) if len(item.ids) > self._max_length]
        cut = dict(zip(long, self._cut.encode_batch_fast([texts[place] for place in long]), strict=True))
        return [self._tokens(cut.get(place, item), len(item.ids)) for place, item in enumerate(whole)]

    def _tokens(self, item: Encoding, full_length: int) -> Tokens:
        types = item.type_ids if self._segments > 1 else [0] * len(item.ids)
        return Tokens(item.ids, types, full_length)


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
