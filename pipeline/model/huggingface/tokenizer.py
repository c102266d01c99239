"""The tokenizer.json of a Hugging Face directory; made from a vocabulary, once, where there is none."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import ByteLevelBPETokenizer, Tokenizer, processors
from tokenizers.implementations import BertWordPieceTokenizer

from engines.errors import InputError
from pipeline.model.huggingface.layout import encoder_directory, read_json_object

log = logging.getLogger(__name__)
TOKENIZER_NAME = "tokenizer.json"
_WORD_PIECE = ("bert", "distilbert", "electra", "nomic_bert")
"""Families whose vocab.txt is BERT's, with [CLS] and [SEP]."""
_BYTE_LEVEL = ("roberta", "ltp")
"""Types whose vocab.json and merges.txt are RoBERTa's; "ltp" is what the original LTP calls its RoBERTa."""
_OTHERS = ("sentencepiece.bpe.model", "spiece.model", "spm.model", "vocab.txt", "vocab.json", "bpe.codes")


def tokenizer_file(directory: Path) -> Path | None:
    """The tokenizer.json of a directory or of the encoder in it, which a vocabulary is converted to; None without any.

    Raises InputError, with the command to run, for a vocabulary that the tokenizers library alone cannot convert.
    """
    home = encoder_directory(directory)
    for folder in (directory, home):
        if (folder / TOKENIZER_NAME).is_file():
            return folder / TOKENIZER_NAME
    if not (home / "config.json").is_file():
        return None
    found = [name for name in _OTHERS if (home / name).is_file()]
    if not found:
        return None
    model_type = read_json_object(home / "config.json").get("model_type")
    source = home / "tokenizer_config.json"
    settings = read_json_object(source) if source.is_file() else {}
    converted = None
    if not (home / "added_tokens.json").is_file():
        if "vocab.txt" in found and model_type in _WORD_PIECE:
            converted = _word_piece(home / "vocab.txt", settings)
        elif model_type in _BYTE_LEVEL and (home / "vocab.json").is_file() and (home / "merges.txt").is_file():
            converted = _byte_level(home, settings)
    if converted is None:
        raise _unconverted(home, f"found {', '.join(found)} of a {model_type} model")
    return _saved(converted, home, found[0])


def _word_piece(vocabulary: Path, settings: Mapping[str, Any]) -> Tokenizer | None:
    try:
        known = set(vocabulary.read_text("utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise InputError(f"{vocabulary}: expected a token in each line, found {error}") from None
    if not {"[CLS]", "[SEP]", "[UNK]", "[PAD]"} <= known:
        return None
    return BertWordPieceTokenizer(
        str(vocabulary),
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )


def _byte_level(home: Path, settings: Mapping[str, Any]) -> Tokenizer | None:
    spaced = settings.get("add_prefix_space", False)
    files = home / "vocab.json", home / "merges.txt"
    try:
        tokenizer = ByteLevelBPETokenizer(*map(str, files), add_prefix_space=spaced)
    except Exception as error:  # the library raises bare Exception for every malformed file
        raise InputError(f"{home}: expected a byte-level vocab.json and merges.txt, found {error}") from None
    known = tokenizer.get_vocab()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if any(token not in known for token in special):
        return None
    tokenizer.add_special_tokens(special)
    sep, first = ("</s>", known["</s>"]), ("<s>", known["<s>"])
    # The wrapper lets nobody set what stands behind the model.
    inner: Tokenizer = tokenizer._tokenizer
    inner.post_processor = processors.RobertaProcessing(sep, first, trim_offsets=True, add_prefix_space=spaced)
    return inner


def _saved(tokenizer: Tokenizer, home: Path, source: str) -> Path:
    """Writes tokenizer.json beside the vocabulary, whole or not at all."""
    path, partial = home / TOKENIZER_NAME, home / f".{TOKENIZER_NAME}.partial"
    try:
        partial.write_text(tokenizer.to_str(pretty=True), "utf-8")
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise _unconverted(home, f"found {source}, from which none could be written there ({error})") from None
    log.warning("%s: wrote %s from %s", home, TOKENIZER_NAME, source)
    return path


def _unconverted(home: Path, found: str) -> InputError:
    command = f"from transformers import AutoTokenizer as T; T.from_pretrained({str(home)!r}).save_pretrained('OUT')"
    return InputError(
        f"{home}: expected a {TOKENIZER_NAME}, {found}; make one and copy it there: pip install transformers "
        f'sentencepiece && python -c "{command}"'
    )
