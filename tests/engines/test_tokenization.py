"""Texts to tokens: lengths before truncation, pairs, segments, and text that is no Unicode."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import InputError
from engines.tokenization import TextEncoder


def words(count: int, first: int = 4) -> str:
    return " ".join(f"w{first + i}" for i in range(count))


def test_a_text_and_a_pair(tiny_tokenizer: Path) -> None:
    single, pair = TextEncoder(tiny_tokenizer, 32)([words(2), (words(1), words(2, 7))])
    assert (single.input_ids, single.token_type_ids) == ([2, 4, 5, 3], [0] * 4)
    assert (pair.input_ids, pair.token_type_ids) == ([2, 4, 3, 7, 8, 3], [0, 0, 0, 1, 1, 1])
    assert (single.full_length, pair.full_length) == (4, 6)


def test_segments_are_zero_for_an_encoder_with_one(tiny_tokenizer: Path) -> None:
    assert TextEncoder(tiny_tokenizer, 32, segments=1)([("w4", "w5")])[0].token_type_ids == [0] * 5


@pytest.mark.parametrize("count", [5, 6, 7, 30])
def test_the_full_length_is_counted_before_truncation(tiny_tokenizer: Path, count: int) -> None:
    tokens = TextEncoder(tiny_tokenizer, 8)([words(count)])[0]
    assert tokens.full_length == count + 2
    assert len(tokens) == min(8, count + 2) and tokens.input_ids[-1] == 3, "the last token is [SEP]"


@pytest.mark.parametrize(("first", "second"), [(2, 20), (20, 2), (12, 12)])
def test_the_full_length_of_a_truncated_pair(tiny_tokenizer: Path, first: int, second: int) -> None:
    tokens = TextEncoder(tiny_tokenizer, 10)([(words(first), words(second))])[0]
    assert (len(tokens), tokens.full_length) == (10, first + second + 3)


def test_truncated_texts_keep_their_place_among_others(tiny_tokenizer: Path) -> None:
    counts = [3, 40, 1, 50, 2]
    tokens = TextEncoder(tiny_tokenizer, 8)([words(count) for count in counts])
    assert [t.full_length for t in tokens] == [count + 2 for count in counts]


@pytest.mark.parametrize(
    ("text", "problem"),
    [("w4 \ud800", "surrogate"), (5, "found int"), (("w4", None), "found NoneType"), (["w4"], "found list")],
)
def test_what_is_no_text_is_an_input_error_that_names_it(tiny_tokenizer: Path, text: object, problem: str) -> None:
    with pytest.raises(InputError, match=f"text 2: .*{problem}"):
        TextEncoder(tiny_tokenizer, 8)(["w4", text, "w5"])


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"model": {"type": "none"}}'])
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"expected a tokenizer\.json"):
        TextEncoder(tmp_path / "tokenizer.json", 8)
