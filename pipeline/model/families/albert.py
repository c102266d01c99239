"""ALBERT: narrower embeddings, which are projected, and layers that share their weights."""

from __future__ import annotations

from typing import Any

from pipeline.model.families.base import Family, Problems, Raw, expect
from pipeline.model.families.bert import EMBEDDINGS
from pipeline.model.families.electra import factorised

_LAYER = r"encoder\.albert_layer_groups\.(\d+)\.albert_layers\.0\."


def _parts(raw: Raw, problems: Problems) -> dict[str, Any]:
    expect(raw, problems, "inner_group_num", 1, [1], "a group of layers that share their weights is one layer")
    return {**factorised(raw, problems, 128), "layer_groups": raw.get("num_hidden_groups", 1)}


FAMILY = Family(
    name="albert",
    prefixes=("albert.",),
    renames=(
        *EMBEDDINGS,
        (r"encoder\.embedding_hidden_mapping_in\.(\w+)", r"embeddings.project.\1"),
        (_LAYER + r"attention\.(query|key|value)\.(\w+)", r"attention.\1.\2.\3"),
        (_LAYER + r"attention\.dense\.(\w+)", r"attention.\1.output.\2"),
        (_LAYER + r"attention\.LayerNorm\.(\w+)", r"attention.\1.norm.\2"),
        (_LAYER + r"ffn\.(\w+)", r"feed_forward.\1.up.\2"),
        (_LAYER + r"ffn_output\.(\w+)", r"feed_forward.\1.down.\2"),
        (_LAYER + r"full_layer_layer_norm\.(\w+)", r"feed_forward.\1.norm.\2"),
    ),
    sequence_head=(
        (r"pooler\.(weight|bias)", r"head.pooler.\1"),
        (r"classifier\.(weight|bias)", r"head.classifier.\1"),
    ),
    defaults={"activation": "gelu_new"},
    parts=_parts,
    tied=("predictions.decoder.weight",),
)
