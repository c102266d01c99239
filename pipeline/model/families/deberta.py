"""DeBERTa-v2 and v3: BERT with disentangled attention."""

from __future__ import annotations

from typing import Any

from pipeline.model.families.base import Family, Problems, Raw, Renames, activation, expect, number
from pipeline.model.families.bert import BLOCKS, EMBEDDINGS, POOLER

_SELF = r"encoder\.layer\.(\d+)\.attention\.self\."


def _parts(raw: Raw, problems: Problems) -> dict[str, Any]:
    expect(raw, problems, "relative_attention", False, [True])
    expect(raw, problems, "conv_kernel_size", 0, [0], "a convolution over neighbours cannot lose tokens")
    for key in ("embedding_size", "pooler_hidden_size"):
        expect(raw, problems, key, raw.get("hidden_size"), [raw.get("hidden_size")])
    kinds = raw.get("pos_att_type") or []
    if isinstance(kinds, str):
        kinds = [kind.strip() for kind in kinds.lower().split("|")]
    if not isinstance(kinds, list) or set(map(str, kinds)) - {"c2p", "p2c"}:
        problems.append(f"pos_att_type must be of 'c2p' and 'p2c', found {raw['pos_att_type']!r}")
        kinds = []
    longest = number(raw, problems, "max_position_embeddings", 512)
    distance, buckets = raw.get("max_relative_positions", -1), raw.get("position_buckets", -1)
    if not isinstance(distance, int) or not isinstance(buckets, int):
        problems.append(
            f"max_relative_positions and position_buckets must be whole numbers, found {distance!r} and {buckets!r}"
        )
        distance = buckets = -1
    return {
        "learned_positions": raw.get("position_biased_input", True),
        "disentangled": {
            "content_to_position": "c2p" in kinds,
            "position_to_content": "p2c" in kinds,
            "buckets": max(0, buckets),
            "max_distance": distance if distance > 0 else int(longest),
            "shared_projections": raw.get("share_att_key", False),
            "normalised": "layer_norm" in str(raw.get("norm_rel_ebd", "none")).lower(),
        },
    }


def _head(raw: Raw, problems: Problems) -> dict[str, Any]:
    return {"activation": activation(raw, problems, "pooler_hidden_act")}


_RENAMES: Renames = (
    *EMBEDDINGS,
    (_SELF + r"(query|key|value)_proj\.(\w+)", r"attention.\1.\2.\3"),
    (_SELF + r"pos_(key|query)_proj\.(\w+)", r"attention.\1.relative.\2.\3"),
    *BLOCKS,
    (r"encoder\.rel_embeddings\.weight", "positions.embedding.weight"),
    (r"encoder\.LayerNorm\.(\w+)", r"positions.norm.\1"),
)
FAMILY = Family(
    name="deberta-v2",
    prefixes=("deberta.",),
    renames=_RENAMES,
    sequence_head=POOLER,
    defaults={"type_vocab_size": 0, "layer_norm_eps": 1e-7},
    parts=_parts,
    head=_head,
    tied=("lm_predictions.lm_head.weight", "cls.predictions.decoder.weight"),
)
