"""Every family against transformers or its formulas, and masked against compacted execution, with random weights."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from pipeline.model import CheckpointConfig, PrunedTransformer
from pipeline.model.positions import alibi_slopes
from tests.model.families import LONGEST, VARIANTS, load_dense, load_pruned, random_text, run_original
from tests.model.jina import slopes
from tests.model.samples import MARGIN, TOLERANCE, assert_same, decision_margin, make_samples, run

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


@pytest.mark.parametrize(
    "variant", ["bert", "roberta", "distilbert", "electra", "albert", "modernbert", "mpnet", "jina"]
)
@pytest.mark.parametrize("kind", ENDINGS)
def test_a_token_level_head_agrees_with_transformers(variant: str, kind: str) -> None:
    assert_agrees(variant, ENDINGS[kind], LENGTHS, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_lengths_and_batches_agree_with_transformers(variant: str, seed: int) -> None:
    for lengths in ([1], [2, 2], [LONGEST - 2] * 8, [5, 9, 38, 1, 23, 2, 31]):
        assert_agrees(variant, "ForSequenceClassification", lengths, seed)


def assert_compaction_changes_nothing(model: PrunedTransformer, lengths: list[int], seed: int) -> None:
    drawn = (make_samples(model, lengths, 100 * seed + attempt) for attempt in range(20))
    samples = next(samples for samples in drawn if decision_margin(model, samples) > MARGIN)
    masked = run(model, samples)
    longest = masked[lengths.index(max(lengths))]
    assert 1 < int(longest.counts[-1]) < 0.9 * max(lengths), "the decisions drop too little or everything"
    assert_same(run(model, samples, "compacted"), masked)
    alone = [run(model, [sample], "compacted")[0] for sample in samples]
    assert_same(alone, masked)


@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_equals_compacted(variant: str, method: str) -> None:
    assert_compaction_changes_nothing(load_pruned(variant, method), LENGTHS, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_equals_compacted_in_many_batches(variant: str, method: str, seed: int) -> None:
    model = load_pruned(variant, method, seed)
    for number, lengths in enumerate(([38], [30, 30], [38, 1, 2, 17, 25, 3, 9, 38])):
        assert_compaction_changes_nothing(model, lengths, 10 * seed + number)


def test_a_window_is_of_positions_and_not_of_rows() -> None:
    """Rows that were far apart stay so when those between them are gone: else the last test would show nothing."""
    model = load_dense("modernbert")[1]
    local = model.attention[1]
    assert local.local and model.config.encoder.local.distance == 4
    alive, near, far = torch.ones(1, 3, dtype=torch.int32), torch.tensor([[0, 4, 8]]), torch.tensor([[0, 5, 10]])
    masks = [model.positions.at(place.int(), torch.float32).mask(alive, True)[0, 0] == 0 for place in (near, far)]
    assert masks[0].tolist() == [[True, True, False], [True, True, True], [False, True, True]]
    assert masks[1].tolist() == torch.eye(3).bool().tolist()


def test_linear_biases_are_of_positions_and_not_of_rows() -> None:
    model = load_dense("jina")[1]  # of 4 heads
    alive, place = torch.tensor([[1, 1, 0]], dtype=torch.int32), torch.tensor([[0, 3, 38]], dtype=torch.int32)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        mask = model.positions.at(place, dtype).mask(alive, False)[0]
        assert mask.dtype == dtype
        for head, slope in enumerate((1 / 4, 1 / 16, 1 / 64, 1 / 256)):
            assert mask[head, 0, :2].tolist() == [0, -3 * slope] and mask[head, 2, 1] == -35 * slope
            assert (mask[head, :, 2] < -2e4).all()


def test_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8) == [2.0**-power for power in range(1, 9)]
    assert alibi_slopes(12) == alibi_slopes(8) + [2.0**-power for power in (0.5, 1.5, 2.5, 3.5)]
    for heads in range(1, 65):
        assert alibi_slopes(heads) == pytest.approx(slopes(heads), rel=1e-12)


@pytest.mark.parametrize(
    "pruner",
    [
        {"method": "ltp", "thresholds": [0.1, 0.1, 0.0], "reference_length": 8},
        {"method": "topk", "keep_rates": [1.0, 0.5, 1.0]},
        {"method": "threshold", "thresholds": [0.0, 0.1, 0.0]},
    ],
)
def test_a_decision_by_local_attention_is_refused(pruner: dict) -> None:
    config = load_dense("modernbert")[1].config.model_dump(exclude={"pruner"})
    with pytest.raises(ValidationError, match=r"decides at layers \[1\], whose attention is local.*only: \[0, 2\]"):
        CheckpointConfig(**config, pruner=pruner)
