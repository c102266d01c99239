"""Where a tokenizer's post-processor puts the parts of an input and its special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer, models

from engines.origin import SPECIAL


@dataclass(frozen=True)
class Template:
    """The pieces of an input in order: (special token, None, segment) or (None, number of the part, segment)."""

    pieces: tuple[tuple[int | None, int | None, int], ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, parts: int) -> Template:
        """What the post-processor makes of `parts` (1 or 2) parts of one token each; it truncates and pads nothing."""
        probe = Tokenizer(models.WordLevel({"first": 0, "second": 1}))
        if tokenizer.post_processor is not None:
            probe.post_processor = tokenizer.post_processor
        made = probe.encode("first", "second" if parts == 2 else None)
        pieces = tuple(
            (token if part is None else None, part, segment)
            for token, part, segment in zip(made.ids, made.sequence_ids, made.type_ids, strict=True)
        )
        if sorted(part for _, part, _ in pieces if part is not None) != list(range(parts)):
            raise ValueError(f"its post-processor does not take each of {parts} text(s) once")
        return cls(pieces)

    @property
    def special(self) -> list[int]:
        """The special tokens, in order."""
        return [token for token, _, _ in self.pieces if token is not None]

    @property
    def separator(self) -> int | None:
        """The special token behind the first part; None if there is none."""
        first = next(index for index, (_, part, _) in enumerate(self.pieces) if part == 0)
        return next((token for token, _, _ in self.pieces[first + 1 : first + 2]), None)

    def room(self, lengths: Sequence[int], max_length: int) -> tuple[list[int], list[int]]:
        """How many tokens of every part stay, and where each part starts in the input."""
        kept = _cut(lengths, max_length - len(self.special))
        starts, at = [0] * len(kept), 0
        for _, part, _ in self.pieces:
            if part is not None:
                starts[part] = at
            at += 1 if part is None else kept[part]
        return kept, starts

    def fill(self, parts: Sequence[list[int]], max_length: int) -> tuple[list[int], list[int]]:
        """Ids and segment ids of an input, cut at `max_length` tokens."""
        kept = _cut([len(part) for part in parts], max_length - len(self.special))
        ids: list[int] = []
        segments: list[int] = []
        for token, part, segment in self.pieces:
            piece = [token] if token is not None else parts[part or 0][: kept[part or 0]]
            ids += piece
            segments += [segment] * len(piece)
        return ids, segments

    def order(self, lengths: Sequence[int], max_length: int) -> list[tuple[int, int]]:
        """Of each token of an input as `fill` cuts it, its part, SPECIAL if it has none, and its number in that."""
        kept = _cut(lengths, max_length - len(self.special))
        found: list[tuple[int, int]] = []
        for _, part, _ in self.pieces:
            found += [(SPECIAL, 0)] if part is None else [(part, number) for number in range(kept[part])]
        return found


def _cut(lengths: Sequence[int], room: int) -> list[int]:
    """How much of every part stays, as the library's `longest_first`: the longer one is cut until both are as long."""
    if sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    shorter = min(lengths)
    if 2 * shorter <= room:
        return [room - shorter if length > shorter else length for length in lengths]
    halves = [room // 2, room - room // 2]
    return halves if lengths[0] <= lengths[1] else halves[::-1]
