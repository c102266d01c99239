"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT whose positions start behind the padding's, with a head of its own."""

from __future__ import annotations

from typing import Any

from pipeline.model.families.base import Family, Problems, Raw, Renames
from pipeline.model.families.bert import BLOCKS, EMBEDDINGS, absolute

HEAD: Renames = (
    (r"classifier\.dense\.(\w+)", r"head.pooler.\1"),
    (r"classifier\.out_proj\.(\w+)", r"head.classifier.\1"),
)


def behind_padding(raw: Raw, problems: Problems) -> dict[str, Any]:
    """The offset of the positions: one more than the padding's token id."""
    absolute(raw, problems)
    padding = raw.get("pad_token_id")
    if padding is None:
        padding = 1
    if not isinstance(padding, int) or padding < 0:
        problems.append(f"pad_token_id must be a token's number: positions start behind it, found {padding!r}")
        return {}
    return {"position_offset": padding + 1}


def _family(name: str) -> Family:
    return Family(
        name=name,
        prefixes=("roberta.",),
        renames=(*EMBEDDINGS, *BLOCKS),
        sequence_head=HEAD,
        defaults={"pad_token_id": 1},
        parts=behind_padding,
        tied=("lm_head.decoder.weight",),
    )


ROBERTA, XLM_ROBERTA, CAMEMBERT = (_family(name) for name in ("roberta", "xlm-roberta", "camembert"))
