"""Texts to token ids with the checkpoint's own tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from engines.errors import InputError
from engines.origin import SPECIAL, Origin
from engines.template import Template

Text = str | tuple[str, str]
"""One text, or a pair such as (premise, hypothesis)."""
MAX_BYTES = 2**20
"""Most UTF-8 bytes of a text that are tokenised: what lies behind them is far beyond what a model takes."""
_TOGETHER = 2**20
"""Characters that the library tokenises in one call, whose memory is some hundred bytes for each."""
_EDGE = 1000
"""Characters in front of a cut in which a blank is looked for, so that no word is cut."""
_PADDING = ("[PAD]", "<pad>")
_UNKNOWN = ("[UNK]", "<unk>")
_Read = tuple[list[int], Encoding]
"""The ids of a text, and what the library gave for it."""


@dataclass(frozen=True)
class Tokens:
    """One tokenised input: ids and segment ids of equal length, and how long it was before any truncation.

    Of a text with more than MAX_BYTES, `full_length` is a lower bound. `origin` says where each token comes from, if it
    was asked for.
    """

    input_ids: list[int]
    token_type_ids: list[int]
    full_length: int
    origin: Origin | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.input_ids)


class TextEncoder:
    """Tokenises without padding; inputs are cut at `max_length` tokens, and `full_length` tells.

    The parts of a pair are tokenised apart and put together here: a tokenizer that truncates makes every combination
    of the pieces that it cuts off. The special tokens that give an input its structure, and padding, come from the
    tokenizer's template alone: written in a text they are characters like any others.
    """

    def __init__(
        self,
        tokenizer_json: Path,
        max_length: int,
        segments: int = 2,
        content: bytes | None = None,
        *,
        origins: bool = False,
    ) -> None:
        """`content` is that of the file, where it has been read already. origins: whether tokens get their `origin`."""
        with _refusing(f"{tokenizer_json}: expected a tokenizer.json, found"):
            self._tokenizer = Tokenizer.from_buffer(tokenizer_json.read_bytes() if content is None else content)
            padding = self._tokenizer.padding
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            self._templates = [Template.of(self._tokenizer, parts) for parts in (1, 2)]
        self._max_length, self._segments, self._origins = max_length, segments, origins
        pads = [self._tokenizer.token_to_id(name) for name in _PADDING] if padding is None else [padding["pad_id"]]
        structural = [token for template in self._templates for token in template.special]
        self._structural = frozenset(token for token in [*structural, *pads] if token is not None)

    @property
    def separator(self) -> int | None:
        """The special token behind the first text of a pair; None if there is none."""
        return self._templates[1].separator

    def __call__(self, texts: Sequence[Text], first: int = 1) -> list[Tokens]:
        """Tokens of every text, in order; `first` is the number of the first one in errors.

        Raises InputError for what is no text, what the tokenizer cannot read, and where `max_length` leaves no room
        for a token of each part.
        """
        inputs = [self._parts(text, number) for number, text in enumerate(texts, first)]
        try:
            with _refusing(f"text {first}: expected a text that the tokenizer can read, found"):
                read = iter(self._encoded([part[: _head(part)] for parts in inputs for part in parts]))
        except InputError:
            if len(texts) == 1:
                raise
            return [self([text], number)[0] for number, text in enumerate(texts, first)]  # one of them raises
        return [self._tokens(parts, [next(read) for _ in parts]) for parts in inputs]

    def places_of_second(self, pair: tuple[str, str]) -> list[tuple[int, int, int]]:
        """Of every token of the second text that is not cut off: its position in the input, and its characters from
        start to end. Empty where a text has a structural token written in it, or is cut at MAX_BYTES."""
        encodings = [self._tokenizer.encode(part, add_special_tokens=False) for part in pair]
        written = any(not self._structural.isdisjoint(encoding.ids) for encoding in encodings)
        if written or any(_head(part) < len(part) for part in pair):
            return []
        kept, starts = self._templates[1].room([len(encoding.ids) for encoding in encodings], self._max_length)
        return [(starts[1] + n, *span) for n, span in enumerate(encodings[1].offsets[: kept[1]])]

    def _parts(self, text: Text, number: int) -> list[str]:
        if (problem := text_problem(text)) is not None:
            raise InputError(f"text {number}: {problem}")
        parts = [text] if isinstance(text, str) else list(text)
        least = len(self._templates[len(parts) - 1].special) + len(parts)
        if least > self._max_length:
            kind = "a pair" if len(parts) == 2 else "a text"
            raise InputError(
                f"text {number}: {kind} takes at least {least} tokens with the special ones, the maximum length is "
                f"{self._max_length} (--max-length)"
            )
        return parts

    def _tokens(self, parts: list[str], read: list[_Read]) -> Tokens:
        template, ids = self._templates[len(parts) - 1], [ids for ids, _ in read]
        input_ids, segments = template.fill(ids, self._max_length)
        full_length = sum(map(len, ids)) + len(template.special)
        if any(_head(part) < len(part) for part in parts):  # there is more, whatever the first bytes came to
            full_length = max(full_length, self._max_length) + 1
        segments = segments if self._segments > 1 else [0] * len(input_ids)
        origin = self._origin(parts, read, template.order(list(map(len, ids)), self._max_length))
        return Tokens(input_ids, segments, full_length, origin)

    def _origin(self, parts: list[str], read: list[_Read], order: list[tuple[int, int]]) -> Origin | None:
        """Where the tokens of an input come from, of which `order` has the part and the number in that."""
        if not self._origins:
            return None
        spans = [(0, 0) if part == SPECIAL else read[part][1].offsets[n] for part, n in order]
        words = [None if part == SPECIAL else read[part][1].word_ids[n] for part, n in order]
        joined = [part != SPECIAL and self._is_joined(read[part], n, parts[part]) for part, n in order]
        return Origin(tuple(parts), [part for part, _ in order], spans, words, joined)

    def _is_joined(self, read: _Read, number: int, text: str) -> bool:
        """Whether a token goes on with a word. Tokenizers without a mark for that begin a word behind a blank only."""
        ids, encoding = read
        start, end = encoding.offsets[number]
        if ids[number] == self._unknown:
            return False
        if getattr(self._tokenizer.model, "continuing_subword_prefix", None):
            return len(encoding.tokens[number]) != end - start
        return start > 0 and " " not in text[start - 1 : start + 1]

    def _encoded(self, parts: Sequence[str]) -> list[_Read]:
        found: list[Encoding] = []
        # Characters' offsets take time, which is lost where nobody reads them.
        encode = self._tokenizer.encode_batch if self._origins else self._tokenizer.encode_batch_fast
        for group in _groups(parts):
            found += encode(group, add_special_tokens=False)
        read = [(encoding.ids, encoding) for encoding in found]
        return [
            one if self._structural.isdisjoint(one[0]) else self._literal(part)
            for part, one in zip(parts, read, strict=True)
        ]

    def _literal(self, part: str) -> _Read:
        """A text that has a structural token written in it, with that as characters or as an unknown word."""
        encoding = self._spelling.encode(part, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if self._structural.isdisjoint(ids):
            return ids, encoding
        if self._unknown is None:
            raise ValueError("a special token in a tokenizer that has no unknown one to read it as")
        return [self._unknown if token in self._structural else token for token in ids], encoding

    @cached_property
    def _unknown(self) -> int | None:
        return next((i for i in map(self._tokenizer.token_to_id, _UNKNOWN) if i is not None), None)

    @cached_property
    def _spelling(self) -> Tokenizer:
        """The tokenizer, but that it finds no structural token in a text; markers that a model has learned stay."""
        content = json.loads(self._tokenizer.to_str())
        for token in content["added_tokens"]:
            token["special"] = token["id"] in self._structural
        tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.encode_special_tokens = True
        return tokenizer


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


def longest_part(text: Text) -> int:
    """UTF-8 bytes of a text, or of the longer one of a pair."""
    return max(len(part.encode()) for part in ([text] if isinstance(text, str) else text))


def _head(part: str) -> int:
    """How many characters of a text are read: all, or those of its first MAX_BYTES, to the last blank if it is near."""
    if 4 * len(part) <= MAX_BYTES or len(encoded := part.encode()) <= MAX_BYTES:
        return len(part)
    head = encoded[:MAX_BYTES].decode(errors="ignore")
    blank = max(head.rfind(space, len(head) - _EDGE) for space in " \t\n")
    return blank if blank > 0 else len(head)


def _groups(parts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in order, in groups of at most `_TOGETHER` characters or of one text."""
    group: list[str] = []
    size = 0
    for part in parts:
        if group and size + len(part) > _TOGETHER:
            yield group
            group, size = [], 0
        group.append(part)
        size += len(part)
    if group:
        yield group


@contextmanager
def _refusing(expected: str) -> Iterator[None]:
    """Turns what the library raises, bare Exception and Rust's panics (no Exception for Python), into InputError."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{expected} {error}") from None
