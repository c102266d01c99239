"""Where the tokens of an input come from, in characters."""

from __future__ import annotations

from dataclasses import dataclass

SPECIAL = -1
"""The part of a token that comes from no text."""


@dataclass(frozen=True)
class Origin:
    """The parts of an input and, for each of its tokens, its place in them.

    parts:  by token, 0 or 1 for the second text of a pair; SPECIAL.
    spans:  by token, its first character in its part and the one behind its last.
    words:  by token, the number of its word in its part; None where the tokenizer knows no words.
    joined: by token, whether it goes on with the word of the token in front of it, as transformers' token
            classification has it.
    """

    texts: tuple[str, ...]
    parts: list[int]
    spans: list[tuple[int, int]]
    words: list[int | None]
    joined: list[bool]

    def of_part(self, part: int) -> list[int]:
        """The tokens of a part, in order."""
        return [token for token, found in enumerate(self.parts) if found == part]

    def word_span(self, token: int) -> tuple[int, int]:
        """The characters of the whole word that a token is of, as far as its tokens were not cut off."""
        part, word = self.parts[token], self.words[token]
        if word is None:
            return self.spans[token]
        same = [n for n in self.of_part(part) if self.words[n] == word]
        return self.spans[same[0]][0], self.spans[same[-1]][1]
