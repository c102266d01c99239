"""Where texts enter a runner: tokens of those that it can answer, and why it cannot answer the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from engines.errors import InputError
from engines.inputs import Input, refused_text, refused_tokens
from engines.manifest import Encoder
from engines.tokenization import Text, TextEncoder, Tokens

TOKENISE_TOGETHER = 32
"""Texts that go to the tokenizer at a time, which spreads them over the cores."""


class Intake:
    """Tokenises and checks.

    limit:    tokens that a text may have.
    truncate: whether longer ones are cut.
    stride:   tokens that neighbouring windows share, of a model that reads what is too long in windows; None: another.
    """

    def __init__(self, encode: TextEncoder, encoder: Encoder, limit: int, truncate: bool, stride: int | None) -> None:
        self._encode, self._encoder, self._limit = encode, encoder, limit
        self._truncate, self._stride = truncate, stride

    def in_windows(self, truncate: bool) -> bool:
        """Whether a text that is too long is read in windows."""
        return self._stride is not None and not truncate

    def stream(self, texts: Iterable[Text], most: int, windows: deque[int] | None = None) -> Iterator[Tokens]:
        """The tokens of every text; with `windows`, to which their number is added, in as many as a long one takes.

        Reads at most `most` texts ahead. Raises InputError at the first bad one, behind the tokens of those in front.
        """
        rest, number = iter(texts), 0
        while True:
            chunk, error = _read(rest, most)
            good = next((place for place, text in enumerate(chunk) if self._problem(text)), len(chunk))
            if windows is None:
                yield from self._encode(chunk[:good], number + 1)
            else:
                for tokens in self._encode.windows(chunk[:good], number + 1, self._stride or 0):
                    windows.append(len(tokens))
                    yield from tokens
            if good < len(chunk):
                raise InputError(f"text {number + good + 1}: {self._problem(chunk[good])}")
            if error is not None:
                raise error
            if not chunk:
                return
            number += len(chunk)

    def each(self, inputs: Sequence[Input]) -> list[list[Tokens] | InputError]:
        """The tokens of every text, of each of its windows, or why there are none that can be run."""
        problems = [refused_text(one.text, self._truncate or one.truncate) for one in inputs]
        good = [one for one, problem in zip(inputs, problems, strict=True) if problem is None]
        encoded = iter(self._encoded(good))
        return [
            next(encoded) if problem is None else InputError(f"text {one.number}: {problem}")
            for one, problem in zip(inputs, problems, strict=True)
        ]

    def check(self, number: int, tokens: Tokens) -> None:
        """Raises InputError for what never reaches an engine; number: from 0."""
        problem = refused_tokens(tokens, self._encoder, self._limit, self._truncate)
        if problem is not None:
            raise InputError(f"text {number + 1}: {problem}")

    def _problem(self, text: Text) -> str | None:
        return refused_text(text, self._truncate)

    def _encoded(self, inputs: Sequence[Input]) -> list[list[Tokens] | InputError]:
        """The tokens of texts, all at once where none is refused and all are cut or none is, else one by one."""
        if len({one.truncate for one in inputs}) < 2:
            try:
                return self._read(inputs)
            except InputError as error:
                if len(inputs) == 1:
                    return [error]
        return [found for one in inputs for found in self._encoded([one])]

    def _read(self, inputs: Sequence[Input]) -> list[list[Tokens] | InputError]:
        texts, first = [one.text for one in inputs], inputs[0].number if inputs else 1
        if self.in_windows(self._truncate or any(one.truncate for one in inputs)):
            read = self._encode.windows(texts, first, self._stride or 0)
        else:
            read = [[tokens] for tokens in self._encode(texts, first)]
        return [self._checked(one, windows) for one, windows in zip(inputs, read, strict=True)]

    def _checked(self, one: Input, windows: list[Tokens]) -> list[Tokens] | InputError:
        for tokens in windows:
            problem = refused_tokens(tokens, self._encoder, self._limit, self._truncate or one.truncate)
            if problem is not None:
                return InputError(f"text {one.number}: {problem}")
        return windows


def _read(texts: Iterator[Text], most: int) -> tuple[list[Text], InputError | None]:
    """The next texts, at most so many, and what ended them early: those in front of it are still answered."""
    chunk: list[Text] = []
    try:
        for text in islice(texts, most):
            chunk.append(text)
    except InputError as error:
        return chunk, error
    return chunk, None
