"""MPNet: RoBERTa without segments, with one bucketed relative bias for all layers."""

from __future__ import annotations

from typing import Any

from pipeline.model.families.base import Family, Problems, Raw, expect
from pipeline.model.families.bert import EMBEDDINGS, FEED_FORWARD
from pipeline.model.families.roberta import HEAD

_LAYER = r"encoder\.layer\.(\d+)\.attention\."


def _parts(raw: Raw, problems: Problems) -> dict[str, Any]:
    expect(raw, problems, "relative_attention_num_buckets", 32, [32], "transformers computes no other")
    # transformers' MPNet has these numbers in its code, whatever its configuration says.
    expect(raw, problems, "pad_token_id", 1, [1], "MPNet's positions start behind it")
    return {"position_offset": 2, "relative_bias": {"buckets": 32, "max_distance": 128}}


FAMILY = Family(
    name="mpnet",
    prefixes=("mpnet.",),
    renames=(
        *EMBEDDINGS,
        (_LAYER + r"attn\.q\.(\w+)", r"attention.\1.query.\2"),
        (_LAYER + r"attn\.k\.(\w+)", r"attention.\1.key.\2"),
        (_LAYER + r"attn\.v\.(\w+)", r"attention.\1.value.\2"),
        (_LAYER + r"attn\.o\.(\w+)", r"attention.\1.output.\2"),
        (_LAYER + r"LayerNorm\.(\w+)", r"attention.\1.norm.\2"),
        *FEED_FORWARD,
        (r"encoder\.relative_attention_bias\.weight", "positions.bias.weight"),
    ),
    sequence_head=HEAD,
    defaults={"type_vocab_size": 0, "pad_token_id": 1},
    parts=_parts,
    tied=("lm_head.decoder.weight",),
)
