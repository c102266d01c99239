"""Jina's BERT (jina-embeddings-v2, jina-reranker-v1): linear biases by distance (ALiBi), mostly gated.

There are two codes for it. The later one, of the models for program text, also norms queries and keys and, a second
time, what comes out of the attention. Their config.json files say the same; their tensors have other names.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from pipeline.model.families.base import Family, Problems, Raw, expect
from pipeline.model.families.bert import BLOCKS, EMBEDDINGS, POOLER

log = logging.getLogger(__name__)
_GATED = {"geglu": "gelu", "reglu": "relu"}
"""Their names of feed-forwards, and the activation of the gate."""
_LAYER = r"encoder\.layer\.(\d+)\."
_KNOWN_CODE = ("jinaai/jina-bert-implementation--", "jinaai/jina-bert-v2-qk-post-norm--")
_HEADED = ("SequenceClassification", "TokenClassification", "QuestionAnswering")


def _parts(raw: Raw, problems: Problems) -> dict[str, Any]:
    kind = expect(raw, problems, "feed_forward_type", "original", ["original", *_GATED])
    expect(raw, problems, "emb_pooler", None, [None, "mean"])
    _warn_of_slopes(raw)
    gated = {"feed_forward": "gated", "activation": _GATED[kind]} if kind in list(_GATED) else {}
    return {"learned_positions": False, "alibi": True, **gated}


def _warn_of_slopes(raw: Raw) -> None:
    """Says that slopes may differ: there are several choices for numbers of heads that are no power of two."""
    heads, code = raw.get("num_attention_heads"), raw.get("auto_map")
    names = [str(name) for name in code.values()] if isinstance(code, dict) else []
    other = [name for name in names if not name.startswith(_KNOWN_CODE)]
    if other and isinstance(heads, int) and heads & (heads - 1):
        log.warning(
            "config.json names code of its own, %s: the biases of %d heads are computed as ALiBi's authors do; where "
            "that code has other slopes, answers differ",
            other[-1],
            heads,
        )


def _told_by_tensors(names: Collection[str]) -> dict[str, Any]:
    return {
        "query_key_norm": any(".query_norm." in name for name in names),
        "attention_norms": 2 if any(".second_norm." in name for name in names) else 1,
        "up_bias": any(name.endswith(".up.bias") for name in names),
    }


def _head(raw: Raw, problems: Problems) -> dict[str, Any]:
    saved = str(raw.get("architectures"))
    if raw.get("emb_pooler") != "mean" or any(name in saved for name in _HEADED):
        return {}
    return {"kind": "embedding", "labels": [], "size": raw.get("hidden_size"), "dense": False, "pooling": "mean"}


FAMILY = Family(
    name="jina-bert-v2",
    prefixes=("bert.",),
    renames=(
        *EMBEDDINGS,
        *BLOCKS,
        (_LAYER + r"attention\.self\.layer_norm_q\.(\w+)", r"attention.\1.query_norm.\2"),
        (_LAYER + r"attention\.self\.layer_norm_k\.(\w+)", r"attention.\1.key_norm.\2"),
        (_LAYER + r"layer_norm_1\.(\w+)", r"attention.\1.second_norm.\2"),
        (_LAYER + r"mlp\.gated_layers\.(\w+)", r"feed_forward.\1.[gate,up].\2"),
        (_LAYER + r"mlp\.up_gated_layer\.(\w+)", r"feed_forward.\1.[up,gate].\2"),
        (_LAYER + r"mlp\.up_layer\.(\w+)", r"feed_forward.\1.up.\2"),
        (_LAYER + r"mlp\.(?:wo|down_layer)\.(\w+)", r"feed_forward.\1.down.\2"),
        (_LAYER + r"(?:mlp\.layernorm|layer_norm_2)\.(\w+)", r"feed_forward.\1.norm.\2"),
    ),
    sequence_head=POOLER,
    parts=_parts,
    told_by_tensors=_told_by_tensors,
    head=_head,
    tied=("cls.predictions.decoder.weight",),
)
