"""nomic-bert: BERT with rotary positions, a gated feed-forward and no biases."""

from __future__ import annotations

from typing import Any

from pipeline.model.families.base import ACTIVATIONS, Family, Problems, Raw, expect, number, rope_theta
from pipeline.model.families.bert import EMBEDDINGS, POOLER

_LAYER = r"(?:encoder\.)?layers\.(\d+)\."


def _parts(raw: Raw, problems: Problems) -> dict[str, Any]:
    # Of its first code, whose config.json has GPT-2's names and switches for parts that no published model has.
    for key, usable in (
        ("rotary_emb_fraction", 1.0),
        ("prenorm", False),
        ("use_rms_norm", False),
        ("parallel_block", False),
        ("rotary_emb_interleaved", False),
    ):
        if raw.get(key) is not None:
            expect(raw, problems, key, usable, [usable])
    old = number(raw, problems, "rotary_emb_base", 1_000.0)
    return {
        "learned_positions": False,
        "feed_forward": "gated",
        "attention_bias": raw.get("qkv_proj_bias", False),
        "up_bias": raw.get("mlp_fc1_bias", False),
        "down_bias": raw.get("mlp_fc2_bias", False),
        "rope": {"theta": rope_theta(raw, problems, old)},
    }


FAMILY = Family(
    name="nomic_bert",
    prefixes=("nomic_bert.", "bert."),
    renames=(
        *EMBEDDINGS,
        (r"emb_ln\.(\w+)", r"embeddings.norm.\1"),
        (_LAYER + r"attn\.Wqkv\.(\w+)", r"attention.\1.[query,key,value].\2"),
        (_LAYER + r"self_attn\.q_proj\.(\w+)", r"attention.\1.query.\2"),
        (_LAYER + r"self_attn\.k_proj\.(\w+)", r"attention.\1.key.\2"),
        (_LAYER + r"self_attn\.v_proj\.(\w+)", r"attention.\1.value.\2"),
        (_LAYER + r"(?:attn\.out_proj|self_attn\.o_proj)\.(\w+)", r"attention.\1.output.\2"),
        (_LAYER + r"(?:norm1|post_attention_layernorm)\.(\w+)", r"attention.\1.norm.\2"),
        (_LAYER + r"mlp\.(?:fc11|up_proj)\.(\w+)", r"feed_forward.\1.up.\2"),
        (_LAYER + r"mlp\.(?:fc12|gate_proj)\.(\w+)", r"feed_forward.\1.gate.\2"),
        (_LAYER + r"mlp\.(?:fc2|down_proj)\.(\w+)", r"feed_forward.\1.down.\2"),
        (_LAYER + r"(?:norm2|post_mlp_layernorm)\.(\w+)", r"feed_forward.\1.norm.\2"),
    ),
    sequence_head=POOLER,
    keys={
        "hidden_size": ("hidden_size", "n_embd"),
        "layers": ("num_hidden_layers", "n_layer"),
        "heads": ("num_attention_heads", "n_head"),
        "intermediate_size": ("intermediate_size", "n_inner"),
        # Longer texts than it was trained on would be stretched; they are not taken.
        "max_positions": ("max_position_embeddings", "max_trained_positions", "n_positions"),
        "layer_norm_eps": ("layer_norm_eps", "layer_norm_epsilon"),
        "activation": ("hidden_act", "activation_function"),
    },
    defaults={"activation": "silu"},
    activations={**ACTIVATIONS, "swiglu": "silu", "geglu": "gelu"},
    parts=_parts,
    tied=("cls.predictions.decoder.weight",),
)
