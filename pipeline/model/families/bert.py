"""BERT: the encoder that the others differ from."""

from __future__ import annotations

from typing import Any

from pipeline.model.families.base import Family, Problems, Raw, Renames, expect

EMBEDDINGS: Renames = (
    (r"embeddings\.word_embeddings\.weight", "embeddings.word.weight"),
    (r"embeddings\.position_embeddings\.weight", "embeddings.position.weight"),
    (r"embeddings\.token_type_embeddings\.weight", "embeddings.token_type.weight"),
    (r"embeddings\.LayerNorm\.(\w+)", r"embeddings.norm.\1"),
)
FEED_FORWARD: Renames = (
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"feed_forward.\1.up.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"feed_forward.\1.down.\2"),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm\.(\w+)", r"feed_forward.\1.norm.\2"),
)
BLOCKS: Renames = (
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.(\w+)", r"attention.\1.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"attention.\1.output.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.(\w+)", r"attention.\1.norm.\2"),
    *FEED_FORWARD,
)
POOLER: Renames = (
    (r"pooler\.dense\.(\w+)", r"head.pooler.\1"),
    (r"classifier\.(weight|bias)", r"head.classifier.\1"),
)


def absolute(raw: Raw, problems: Problems) -> dict[str, Any]:
    """No further parts; any positions but learned ones are a problem."""
    expect(raw, problems, "position_embedding_type", "absolute", ["absolute"])
    return {}


def _parts(raw: Raw, problems: Problems) -> dict[str, Any]:
    expect(raw, problems, "feed_forward_type", "original", ["original"], "a gated one is of Jina's BERT, with ALiBi")
    return absolute(raw, problems)


FAMILY = Family(
    name="bert",
    prefixes=("bert.",),
    renames=(*EMBEDDINGS, *BLOCKS),
    sequence_head=POOLER,
    parts=_parts,
    tied=("cls.predictions.decoder.weight",),
)
