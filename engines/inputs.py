"""What a runner takes of its callers, and why it refuses some of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.errors import SkimError
from engines.manifest import Encoder
from engines.prediction import SampleResult
from engines.tokenization import MAX_BYTES, Text, Tokens, longest_part, text_problem

Answer = list[SampleResult] | SkimError
"""What a text gave: its result, of a long text that is asked about one of every window; or why it gave nothing."""


@dataclass(frozen=True)
class Input:
    """One text of a caller: its number there, from 1, for errors, and whether it is cut where it is too long."""

    text: Text
    number: int = 1
    truncate: bool = False


def text_of_item(item: Any) -> Any:
    """A text or a pair as a runner takes it, of an object with names; what is neither is left for the runner to refuse.

    Objects are {"text": ..., "text_pair": ...} and {"question": ..., "context": ...}; a list of two texts is a pair.
    """
    if isinstance(item, Mapping):
        names = ("question", "context") if "question" in item else ("text", "text_pair")
        first, second = (item.get(name) for name in names)
        return first if second is None else (first, second)
    return tuple(item) if isinstance(item, list) and len(item) == 2 else item


def refused_text(text: Text, truncate: bool) -> str | None:
    """Why a text is not tokenised, or None."""
    if (problem := text_problem(text)) is not None:
        return problem
    if not "".join(text).strip():
        return "expected at least one word, found an empty text"
    if not truncate and (size := longest_part(text)) > MAX_BYTES:
        return f"{size} bytes, a text may have {MAX_BYTES}; shorten or cut it (--truncate)"
    return None


def refused_tokens(tokens: Tokens, encoder: Encoder, limit: int, truncate: bool) -> str | None:
    """Why tokens never reach an engine, all problems in one line, or None. limit: tokens that a text may have."""
    if len(tokens) == 0 or len(tokens) != len(tokens.token_type_ids):
        return f"expected ids and as many segment ids, found {len(tokens)} and {len(tokens.token_type_ids)}"
    if tokens.full_length > limit and not truncate:
        return f"{tokens.full_length} tokens, the model takes {limit}; shorten or cut it (--truncate)"
    if len(tokens) > limit:
        return f"{len(tokens)} tokens, the model takes {limit}"
    problems = []
    for name, ids, size in (
        ("token id", tokens.input_ids, encoder.vocab_size),
        ("segment id", tokens.token_type_ids, encoder.type_vocab_size),
    ):
        if min(ids) < 0 or max(ids) >= size:
            problems.append(f"expected every {name} in [0, {size}), found [{min(ids)}, {max(ids)}]")
    return "; ".join(problems) or None
