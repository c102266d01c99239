"""GTE ("new"): BERT with rotary positions and a gated feed-forward; a segment table only in some."""

from __future__ import annotations

from typing import Any

from pipeline.model.families.base import Family, Problems, Raw, expect, number, rope_theta
from pipeline.model.families.bert import EMBEDDINGS, POOLER

_LAYER = r"(?:encoder\.layer|layers)\.(\d+)\."


def _parts(raw: Raw, problems: Problems) -> dict[str, Any]:
    expect(raw, problems, "position_embedding_type", "rope", ["rope"])
    expect(raw, problems, "layer_norm_type", "layer_norm", ["layer_norm"])
    expect(raw, problems, "logn_attention_scale", False, [False])
    old = number(raw, problems, "rope_theta", 10_000.0 if raw.get("model_type") == "new" else 160_000.0)
    return {
        "learned_positions": False,
        "feed_forward": "gated",
        "up_bias": False,
        "rope": {"theta": rope_theta(raw, problems, old)},
    }


FAMILY = Family(
    name="gte",
    model_types=("gte", "new"),
    prefixes=("gte.", "new."),
    renames=(
        *EMBEDDINGS,
        (_LAYER + r"attention\.qkv_proj\.(\w+)", r"attention.\1.[query,key,value].\2"),
        (_LAYER + r"self_attn\.q_proj\.(\w+)", r"attention.\1.query.\2"),
        (_LAYER + r"self_attn\.k_proj\.(\w+)", r"attention.\1.key.\2"),
        (_LAYER + r"self_attn\.v_proj\.(\w+)", r"attention.\1.value.\2"),
        (_LAYER + r"(?:attention|self_attn)\.o_proj\.(\w+)", r"attention.\1.output.\2"),
        (_LAYER + r"(?:attn_ln|post_attention_layernorm)\.(\w+)", r"attention.\1.norm.\2"),
        (_LAYER + r"mlp\.up_gate_proj\.(\w+)", r"feed_forward.\1.[up,gate].\2"),
        (_LAYER + r"mlp\.(up|gate|down)_proj\.(\w+)", r"feed_forward.\1.\2.\3"),
        (_LAYER + r"(?:mlp_ln|post_mlp_layernorm)\.(\w+)", r"feed_forward.\1.norm.\2"),
    ),
    sequence_head=POOLER,
    defaults={"type_vocab_size": 1, "pad_token_id": 1},
    parts=_parts,
    tied=("lm_head.decoder.weight",),
)
