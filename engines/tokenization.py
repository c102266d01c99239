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


@dataclass(frozen=True)
class _Part:
    """The ids of a text; with origins also each token's characters, its word, and whether it goes on with one."""

    ids: list[int]
    spans: list[tuple[int, int]] = field(default_factory=list)
    words: list[int | None] = field(default_factory=list)
    joined: list[bool] = field(default_factory=list)

    def between(self, begin: int, end: int) -> _Part:
        """The tokens from one to in front of another."""
        here = slice(begin, end)
        return _Part(self.ids[here], self.spans[here], self.words[here], self.joined[here])


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
        return [self._tokens(parts, read) for parts, read in self._read(texts, first)]

    def windows(self, texts: Sequence[Text], first: int, stride: int) -> list[list[Tokens]]:
        """Every text as it is, or, where it is a pair that is too long, in windows of its second part.

        Each window has the whole first part. Neighbours share `stride` tokens, or half of what there is room for if
        that is less. Raises InputError as a call does, and for a first part that leaves no room.
        """
        return [
            self._windows(parts, read, number, stride)
            for number, (parts, read) in enumerate(self._read(texts, first), first)
        ]

    def _read(self, texts: Sequence[Text], first: int) -> list[tuple[list[str], list[_Part]]]:
        """The parts of every text, and their tokens."""
        inputs = [self._parts(text, number) for number, text in enumerate(texts, first)]
        try:
            with _refusing(f"text {first}: expected a text that the tokenizer can read, found"):
                read = iter(self._encoded([part[: _head(part)] for parts in inputs for part in parts]))
        except InputError:
            if len(texts) == 1:
                raise
            return [self._read([text], number)[0] for number, text in enumerate(texts, first)]  # one of them raises
        return [(parts, [next(read) for _ in parts]) for parts in inputs]

    def _windows(self, parts: list[str], read: list[_Part], number: int, stride: int) -> list[Tokens]:
        whole = self._tokens(parts, read)
        if whole.full_length <= self._max_length or len(parts) == 1:
            return [whole]
        asked, text = read
        room = self._max_length - len(self._templates[1].special) - len(asked.ids)
        if room < 1:
            raise InputError(
                f"text {number}: its first part has {len(asked.ids)} tokens, which leaves none of the model's "
                f"{self._max_length} for the second; shorten it"
            )
        step = room - min(stride, room // 2)
        last = max(1, len(text.ids) - room + step)
        return [self._tokens(parts, [asked, text.between(at, at + room)]) for at in range(0, last, step)]

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

    def _tokens(self, parts: list[str], read: list[_Part]) -> Tokens:
        template, ids = self._templates[len(parts) - 1], [part.ids for part in read]
        input_ids, segments = template.fill(ids, self._max_length)
        full_length = sum(map(len, ids)) + len(template.special)
        if any(_head(part) < len(part) for part in parts):  # there is more, whatever the first bytes came to
            full_length = max(full_length, self._max_length) + 1
        segments = segments if self._segments > 1 else [0] * len(input_ids)
        origin = self._origin(parts, read, template.order(list(map(len, ids)), self._max_length))
        return Tokens(input_ids, segments, full_length, origin)

    def _origin(self, parts: list[str], read: list[_Part], order: list[tuple[int, int]]) -> Origin | None:
        """Where the tokens of an input come from, of which `order` has the part and the number in that."""
        if not self._origins:
            return None
        spans = [(0, 0) if part == SPECIAL else read[part].spans[n] for part, n in order]
        words = [None if part == SPECIAL else read[part].words[n] for part, n in order]
        joined = [part != SPECIAL and read[part].joined[n] for part, n in order]
        return Origin(tuple(parts), [part for part, _ in order], spans, words, joined)

    def _part(self, ids: list[int], encoding: Encoding, text: str) -> _Part:
        if not self._origins:
            return _Part(ids)
        tokens, spans = encoding.tokens, encoding.offsets  # each a new list at every access
        joined = [self._is_joined(*token, text) for token in zip(ids, tokens, spans, strict=True)]
        return _Part(ids, spans, encoding.word_ids, joined)

    def _is_joined(self, number: int, token: str, span: tuple[int, int], text: str) -> bool:
        """Whether a token goes on with a word. Tokenizers without a mark for that begin a word behind a blank only."""
        start, end = span
        if number == self._unknown:
            return False
        if self._has_prefix:
            return len(token) != end - start
        return start > 0 and " " not in text[start - 1 : start + 1]

    def _encoded(self, parts: Sequence[str]) -> list[_Part]:
        found: list[Encoding] = []
        # Characters' offsets take time, which is lost where nobody reads them.
        encode = self._tokenizer.encode_batch if self._origins else self._tokenizer.encode_batch_fast
        for group in _groups(parts):
            found += encode(group, add_special_tokens=False)
        read = [(encoding.ids, encoding) for encoding in found]
        return [
            self._part(*one, part) if self._structural.isdisjoint(one[0]) else self._literal(part)
            for part, one in zip(parts, read, strict=True)
        ]

    def _literal(self, part: str) -> _Part:
        """A text that has a structural token written in it, with that as characters or as an unknown word."""
        encoding = self._spelling.encode(part, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if self._structural.isdisjoint(ids):
            return self._part(ids, encoding, part)
        if self._unknown is None:
            raise ValueError("a special token in a tokenizer that has no unknown one to read it as")
        known = [self._unknown if token in self._structural else token for token in ids]
        return self._part(known, encoding, part)

    @cached_property
    def _unknown(self) -> int | None:
        return next((i for i in map(self._tokenizer.token_to_id, _UNKNOWN) if i is not None), None)

    @cached_property
    def _has_prefix(self) -> bool:
        """Whether the tokens that go on with a word are marked."""
        return bool(getattr(self._tokenizer.model, "continuing_subword_prefix", None))

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
