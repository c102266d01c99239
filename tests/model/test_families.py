"""Every family against transformers, and masked against compacted execution, with random weights and decisions."""

from __future__ import annotations

import pytest
import torch

from pipeline.model import PrunedTransformer
from tests.model.families import LAYERS, LONGEST, VARIANTS, load_dense, load_pruned, random_text, run_original
from tests.model.samples import MARGIN, TOLERANCE, assert_same, make_samples, run

LENGTHS = [LONGEST - 2, 1, 17]
ENDINGS = {"tagging": "ForTokenClassification", "question_answering": "ForQuestionAnswering"}


def assert_agrees(variant: str, kind: str, lengths: list[int], seed: int) -> None:
    original, ours = load_dense(variant, seed, kind)
    encoder = ours.config.encoder
    ids, mask, types = random_text(lengths, encoder.type_vocab_size, seed)
    states, want = run_original(original, ids, mask, types, encoder.pad_token_id)
    with torch.no_grad():
        found = ours(ids, mask, types)
    real = mask.bool()
    torch.testing.assert_close(found.last_hidden_state[real], states[real], atol=TOLERANCE, rtol=0)
    if ours.config.head.kind == "classification":
        torch.testing.assert_close(found.logits, want.logits, atol=TOLERANCE, rtol=0)
    elif ours.config.head.kind == "tagging":
        torch.testing.assert_close(found.logits[real], want.logits[real], atol=TOLERANCE, rtol=0)
    else:
        spans = torch.stack([want.start_logits, want.end_logits], dim=-1)
        torch.testing.assert_close(found.logits[real], spans[real], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_classifier_agrees_with_transformers(variant: str) -> None:
    assert_agrees(variant, "ForSequenceClassification", LENGTHS, seed=0)
