"""A tokenizer.json made from a vocabulary gives transformers' tokens; what cannot be converted names the command."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from engines.errors import InputError
from pipeline.model.checkpoint import tokenizer_path

TEXTS = ["Hello, unaffable World!", "  caf\u00e9 \u4e2d\u6587 x", "lower LOWER", "", "a-b_c [SEP] d", "tab\tnew\nline"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "Hello", ",", "!", "un", "##aff", "##able", "world"]
PIECES += ["World", "cafe", "caf\u00e9", "\u4e2d", "\u6587", "x", "lower", "LOWER", "a", "-", "b", "_", "c", "d", "tab"]


def word_piece(directory: Path, model_type: str = "bert", **settings) -> Path:
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}), "utf-8")
    (directory / "vocab.txt").write_text("\n".join(PIECES) + "\n", "utf-8")
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return directory


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"strip_accents": False}])
def test_a_word_piece_vocabulary_is_converted_once(
    tmp_path: Path, settings: dict, caplog: pytest.LogCaptureFixture
) -> None:
    import transformers

    home = word_piece(tmp_path, **settings)
    theirs = transformers.BertTokenizerFast.from_pretrained(str(home), **settings)  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING):
        ours = Tokenizer.from_file(str(tokenizer_path(home)))
    assert f"{home}: wrote tokenizer.json from vocab.txt" in caplog.text
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text)["input_ids"], text
    pair, want = ours.encode("hello x", "world"), theirs("hello x", "world")
    assert (pair.ids, pair.type_ids) == (want["input_ids"], want["token_type_ids"])
    caplog.clear()
    tokenizer_path(home)
    assert not caplog.text


def test_a_byte_level_vocabulary_is_converted(tmp_path: Path) -> None:
    import transformers

    letters = sorted({*"helowrdcafx,!-_abtnis", "\u0120", "\u00c3", "\u00a9"})
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *letters, "he", "ll", "hell", "hello", "\u0120w", "<mask>"]
    merges = ["h e", "l l", "he ll", "hell o", "\u0120 w"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), "utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}', "utf-8")
    files = str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")
    try:
        theirs = transformers.RobertaTokenizerFast(*files)
    except TypeError:  # transformers 5 takes what the files hold
        pairs = [tuple(merge.split()) for merge in merges]
        theirs = transformers.RobertaTokenizer({token: i for i, token in enumerate(tokens)}, pairs)
    ours = Tokenizer.from_file(str(tokenizer_path(tmp_path)))
    for text in ("hello world", " hello", "caf\u00e9, x!", "a <mask> b", ""):
        assert ours.encode(text).ids == theirs(text)["input_ids"], text
    assert ours.encode("hello", "world").ids == theirs("hello", "world")["input_ids"]
    assert set(ours.encode("hello", "world").type_ids) == {0}


@pytest.mark.parametrize(
    ("model_type", "name"),
    [("xlm-roberta", "sentencepiece.bpe.model"), ("deberta-v2", "spm.model"), ("mpnet", "vocab.txt")],
)
def test_what_cannot_be_converted_names_the_command(tmp_path: Path, model_type: str, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), "utf-8")
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError) as caught:
        tokenizer_path(tmp_path)
    assert f"expected a tokenizer.json, found {name} of a {model_type} model; make one" in str(caught.value)
    assert f"T.from_pretrained({str(tmp_path)!r}).save_pretrained('OUT')" in str(caught.value)


def test_a_vocabulary_with_additions_or_without_its_ends_is_left_alone(tmp_path: Path) -> None:
    home = word_piece(tmp_path)
    (home / "added_tokens.json").write_text('{"new": 99}', "utf-8")
    with pytest.raises(InputError, match=r"found vocab\.txt of a bert model; make one"):
        tokenizer_path(home)
    (home / "added_tokens.json").unlink()
    (home / "vocab.txt").write_text("a\nb\n[UNK]\n", "utf-8")
    with pytest.raises(InputError, match=r"found vocab\.txt of a bert model; make one"):
        tokenizer_path(home)


def test_a_folder_that_takes_no_file_names_the_command(tmp_path: Path) -> None:
    home = word_piece(tmp_path)
    (home / ".tokenizer.json.partial").mkdir()
    with pytest.raises(InputError, match=r"found vocab\.txt, from which none could be written there .*; make one"):
        tokenizer_path(home)
