"""Texts to tokens: lengths before truncation, pairs, segments, and text that is no Unicode."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from calib.data import read_examples
from engines.errors import InputError
from engines.tokenization import TextEncoder
from pipeline.builder.config import DEMO


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
def test_what_is_no_text_is_an_input_error_that_names_it(tiny_tokenizer: Path, text: Any, problem: str) -> None:
    with pytest.raises(InputError, match=f"text 2: .*{problem}"):
        TextEncoder(tiny_tokenizer, 8)(["w4", text, "w5"])


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"model": {"type": "none"}}'])
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"expected a tokenizer\.json"):
        TextEncoder(tmp_path / "tokenizer.json", 8)


LETTERS = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *"abcdefgh"])}
ENDS = {"special_tokens": [("<s>", 0), ("</s>", 2)]}
POST_PROCESSORS = {
    "bert": processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", **ENDS),
    "roberta": processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", **ENDS),
    "second part first": processors.TemplateProcessing(single="$A </s>", pair="$B:1 <s> $A", **ENDS),
    "BertProcessing": processors.BertProcessing(("</s>", 2), ("<s>", 0)),
    "RobertaProcessing": processors.RobertaProcessing(("</s>", 2), ("<s>", 0)),
    "no special tokens": processors.ByteLevel(),
    "several": processors.Sequence(
        [processors.ByteLevel(), processors.TemplateProcessing(single="<s> $A", pair="<s> $A </s> $B", **ENDS)]
    ),
    "none": None,
}


def letters(directory: Path, post_processor: Any, specials: Sequence[str] = ("<s>", "<pad>", "</s>")) -> Path:
    """A tokenizer whose words are letters."""
    tokenizer = Tokenizer(models.BPE(LETTERS, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    tokenizer.add_special_tokens(list(specials))
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory / "tokenizer.json"


@pytest.fixture(scope="module")
def letter_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: letters(tmp_path_factory.mktemp("letters"), made) for name, made in POST_PROCESSORS.items()}


LETTER_TEXTS = st.text("abcdefgh ", max_size=14)


@settings(max_examples=150)
@given(
    name=st.sampled_from(list(POST_PROCESSORS)),
    texts=st.lists(LETTER_TEXTS | st.tuples(LETTER_TEXTS, LETTER_TEXTS), min_size=1, max_size=4),
    max_length=st.integers(6, 24),
)
def test_inputs_are_put_together_and_cut_as_the_library_does(letter_tokenizers, name, texts, max_length) -> None:
    path = letter_tokenizers[name]
    cutting, whole = (Tokenizer.from_file(str(path)) for _ in range(2))
    cutting.enable_truncation(max_length)
    found = TextEncoder(path, max_length)(texts)
    assert [(t.input_ids, t.token_type_ids) for t in found] == [
        (e.ids, e.type_ids) for e in cutting.encode_batch(texts)
    ]
    assert [t.full_length for t in found] == [len(e.ids) for e in whole.encode_batch(texts)]


def test_reviews_alone_and_in_pairs_are_tokenised_as_the_library_does() -> None:
    path = DEMO / "ltp" / "tokenizer.json"
    texts: list = [example.text for example in read_examples("movie-reviews", "dev")[:120]]
    texts += list(zip(texts[::2], texts[1::2], strict=True))
    library = Tokenizer.from_file(str(path))
    library.no_padding()
    library.enable_truncation(256)
    found = TextEncoder(path, 256)(texts)
    assert [(t.input_ids, t.token_type_ids) for t in found] == [
        (e.ids, e.type_ids) for e in library.encode_batch_fast(texts)
    ]


STRUCTURAL = st.sampled_from(["<s>", "<pad>", "</s>", "a", "bc", " ", "<mark>"])


@settings(max_examples=60)
@given(name=st.sampled_from(list(POST_PROCESSORS)), parts=st.lists(STRUCTURAL, max_size=9))
def test_no_text_holds_padding_or_ends_of_its_own(letter_tokenizers, name, parts) -> None:
    encode, text = TextEncoder(letter_tokenizers[name], 64), "".join(parts)
    empty, found = encode(["", text])
    structural = {LETTERS["<pad>"], *empty.input_ids, *encode([("", "")])[0].input_ids}
    assert [token for token in found.input_ids if token in structural] == empty.input_ids
    assert found.input_ids.count(LETTERS["a"]) == parts.count("a") + parts.count("<pad>") + parts.count("<mark>")


def test_a_marker_that_the_model_has_learned_is_one_token(tmp_path: Path) -> None:
    path = letters(tmp_path, POST_PROCESSORS["roberta"], ["<s>", "<pad>", "</s>", "<mark>"])
    (plain, marked) = TextEncoder(path, 32)(["a<mark>b", "a<mark>b<pad>"])
    assert plain.input_ids[1:-1] == [LETTERS["a"], 12, LETTERS["b"]]
    assert marked.input_ids[1:4] == plain.input_ids[1:-1] and 1 not in marked.input_ids


def test_a_structural_token_that_is_a_word_of_the_vocabulary_is_an_unknown_word(tmp_path: Path) -> None:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "a": 2}
    for known in (vocabulary, {"[PAD]": 0, "a": 2}):
        Tokenizer(models.WordLevel(known, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
        if "[UNK]" in known:
            assert TextEncoder(tmp_path / "tokenizer.json", 8)(["[PAD]"])[0].input_ids == [1]
        else:
            with pytest.raises(InputError, match=r"text 1: .* no unknown one to read it as"):
                TextEncoder(tmp_path / "tokenizer.json", 8)(["[PAD]"])


def test_a_word_that_the_tokenizer_cannot_read_is_an_input_error_that_names_its_text(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    encode = TextEncoder(tmp_path / "tokenizer.json", 8)
    with pytest.raises(InputError, match=r"text 12: .* Missing \[UNK\] token"):
        encode(["a", "a", "zebra"], first=10)


def test_a_template_with_an_unknown_special_token_is_refused(tmp_path: Path) -> None:
    path = letters(tmp_path, POST_PROCESSORS["bert"])
    content = json.loads(path.read_text("utf-8"))
    del content["post_processor"]["special_tokens"]["<s>"]
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(InputError, match=r"expected a tokenizer\.json"):
        TextEncoder(path, 8)


@pytest.mark.parametrize(("text", "least"), [("a", 3), (("a", "b"), 5)])
def test_a_length_without_room_for_words_is_refused(letter_tokenizers, text: str | tuple, least: int) -> None:
    assert len(TextEncoder(letter_tokenizers["bert"], least)([text])[0]) == least
    with pytest.raises(InputError, match=rf"text 1: .* at least {least} tokens .* is {least - 1} \(--max-length\)"):
        TextEncoder(letter_tokenizers["bert"], least - 1)([text])


def test_what_stands_behind_the_first_bytes_of_a_text_is_not_read(letter_tokenizers, monkeypatch) -> None:
    monkeypatch.setattr("engines.tokenization.MAX_BYTES", 40)
    encode = TextEncoder(letter_tokenizers["bert"], 24)
    short, blank, pair, wide = encode(["ab " * 13, " " * 50 + "a", ("ab " * 20, "a b"), "é" * 30])
    assert (len(short), short.full_length) == (24, 28)
    assert (len(blank), blank.full_length) == (2, 25), "longer than the model takes, since its end was not read"
    assert (len(pair), pair.full_length) == (24, 32), "at least: 26 of the first 39 bytes, a blank away"
    assert wide.full_length == 25


def test_texts_are_tokenised_in_groups_of_a_bounded_size(letter_tokenizers, monkeypatch) -> None:
    encode = TextEncoder(letter_tokenizers["roberta"], 24)
    texts = ["ab", "a" * 30, ("b", "c d"), "", "abc"] * 3
    whole = encode(texts)
    monkeypatch.setattr("engines.tokenization._TOGETHER", 5)
    assert encode(texts) == whole


@pytest.mark.parametrize("second", ["", " w5" * 16_000])
def test_the_memory_of_an_input_grows_with_its_length_alone(tiny_tokenizer: Path, second: str) -> None:
    """A tokenizer that truncates pairs itself takes gigabytes for this one."""
    code = (
        "import resource, sys; from pathlib import Path; from engines.tokenization import TextEncoder\n"
        "encode = TextEncoder(Path(sys.argv[1]), 128); encode(['w4'])\n"
        "text = (' w4' * 16_000, sys.argv[2]) if sys.argv[2] else ' w4' * 16_000\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; tokens = encode([text])[0]\n"
        "print(len(tokens), tokens.full_length, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tiny_tokenizer), second]
    length, full, kibibytes = map(int, subprocess.run(command, capture_output=True, check=True).stdout.split())
    assert (length, full) == (128, 32_003 if second else 16_002)
    assert kibibytes < 64 * 1024
