"""ModernBERT: pre-norm, gated, rotary positions with two thetas, most layers local, no biases."""

from __future__ import annotations

from typing import Any

from pipeline.model.families.base import Family, Problems, Raw, Renames, activation, number, rope_theta

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
_LAYER = r"layers\.(\d+)\."
_HEAD: Renames = (
    (r"head\.dense\.(\w+)", r"head.pooler.\1"),
    (r"head\.norm\.(\w+)", r"head.norm.\1"),
    (r"classifier\.(\w+)", r"head.classifier.\1"),
)


def _parts(raw: Raw, problems: Problems) -> dict[str, Any]:
    window = int(number(raw, problems, "local_attention", 128))
    local = {"distance": window // 2, "global_layers": _global_layers(raw, problems)}
    thetas = [
        rope_theta(raw, problems, number(raw, problems, key, default), kind)
        for key, default, kind in (("global_rope_theta", 160_000.0, _GLOBAL), ("local_rope_theta", 10_000.0, _LOCAL))
    ]
    layer_bias = raw.get("mlp_bias", False)
    return {
        "learned_positions": False,
        "norm": "pre",
        "feed_forward": "gated",
        "norm_bias": raw.get("norm_bias", False),
        "attention_bias": raw.get("attention_bias", False),
        "up_bias": layer_bias,
        "down_bias": layer_bias,
        "local": local,
        "rope": {"theta": thetas[0], "local_theta": thetas[1]},
    }


def _global_layers(raw: Raw, problems: Problems) -> list[int]:
    layers, kinds = raw.get("num_hidden_layers", 22), raw.get("layer_types")
    if not isinstance(layers, int):
        return []  # which the caller says
    if kinds is None:
        every = int(number(raw, problems, "global_attn_every_n_layers", 3))
        kinds = [_LOCAL if layer % every else _GLOBAL for layer in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in (_GLOBAL, _LOCAL) for kind in kinds):
        problems.append(f"layer_types must be {_GLOBAL!r} or {_LOCAL!r} for each of {layers} layers, found {kinds!r}")
        return []
    return [layer for layer, kind in enumerate(kinds) if kind == _GLOBAL]


def _head(raw: Raw, problems: Problems) -> dict[str, Any]:
    pooling = raw.get("classifier_pooling", "cls")
    if pooling not in ("cls", "mean") and "SequenceClassification" in str(raw.get("architectures")):
        problems.append(f"classifier_pooling must be 'cls' or 'mean', found {pooling!r}")
    return {
        "pooling": "mean" if pooling == "mean" else "first",
        "dense": True,
        "dense_bias": raw.get("classifier_bias", False),
        "activation": activation(raw, problems, "classifier_activation"),
        "norm": True,
    }


FAMILY = Family(
    name="modernbert",
    prefixes=("model.",),
    renames=(
        (r"embeddings\.tok_embeddings\.weight", "embeddings.word.weight"),
        (r"embeddings\.norm\.(\w+)", r"embeddings.norm.\1"),
        (_LAYER + r"attn_norm\.(\w+)", r"attention.\1.norm.\2"),
        (_LAYER + r"attn\.Wqkv\.(\w+)", r"attention.\1.[query,key,value].\2"),
        (_LAYER + r"attn\.Wo\.(\w+)", r"attention.\1.output.\2"),
        (_LAYER + r"mlp_norm\.(\w+)", r"feed_forward.\1.norm.\2"),
        (_LAYER + r"mlp\.Wi\.(\w+)", r"feed_forward.\1.[gate,up].\2"),
        (_LAYER + r"mlp\.Wo\.(\w+)", r"feed_forward.\1.down.\2"),
        (r"final_norm\.(\w+)", r"final_norm.\1"),
    ),
    sequence_head=_HEAD,
    token_head=_HEAD,
    keys={"layer_norm_eps": ("norm_eps",), "activation": ("hidden_activation",)},
    defaults={"type_vocab_size": 0, "layer_norm_eps": 1e-5, "pad_token_id": 50283},
    parts=_parts,
    head=_head,
    tied=("decoder.weight",),
)
