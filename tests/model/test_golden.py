"""Converted checkpoints against what the papers' own code and stock transformers computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.model import Output
from pipeline.model.originals.execution import run_ltp, run_transkimmer
from pipeline.model.retention import PaddedBatch
from tests.goldens import CASES, arrays
from tests.goldens import golden_model as model

# `master` masks after the softmax: whole runs of it are not what SkimRT computes.
every_case = pytest.mark.parametrize("case", [case for case in CASES if case != "tk_bert_master_b3"])
both_executions = pytest.mark.parametrize("execution", ["masked", "compacted"])


def expected(case: str) -> dict[str, Tensor]:
    """The recorded arrays; the exact-softmax variants where they were recorded."""
    recorded = arrays(case, "expected")
    return {key: recorded.get(f"{key}_eps0", value) for key, value in recorded.items()}


def run(case: str, inputs: dict[str, Tensor], execution: str, samples: slice = slice(None)) -> Output:
    names = ("input_ids", "attention_mask", "token_type_ids")
    given = {name: inputs[name][samples] for name in names if name in inputs}
    with torch.no_grad():
        return model(case)(**given, execution=execution)


def check(out: Output, case: str, mask: Tensor, samples: slice) -> None:
    want = expected(case)
    real, keep = mask.bool(), want["keep_masks"][:, samples].bool()
    torch.testing.assert_close(out.logits, want["logits"][samples], atol=1e-4, rtol=0)
    assert torch.equal(out.alive & real, keep & real)
    assert not out.alive[:, ~real].any()
    # A dead token's last state is defined by Transkimmer; LTP's own code lets it go on without a context.
    comparable = real & keep[-1] if case.startswith("ltp") else real
    states = want["last_hidden_state"][samples]
    torch.testing.assert_close(out.last_hidden_state[comparable], states[comparable], atol=1e-4, rtol=0)


@both_executions
@every_case
def test_the_whole_batch_matches(case: str, execution: str) -> None:
    inputs = arrays(case, "inputs")
    out = run(case, inputs, execution)
    check(out, case, inputs["attention_mask"], slice(None))


@both_executions
@pytest.mark.parametrize("samples", [slice(0, 1), slice(2, 3), slice(0, 2), slice(1, 3)], ids=["0", "2", "01", "12"])
@pytest.mark.parametrize("case", ["dense_bert_b3", "dense_roberta_b3", "ltp_b3_delta"])
def test_parts_of_the_batch_match(case: str, samples: slice, execution: str) -> None:
    inputs = arrays(case, "inputs")
    out = run(case, inputs, execution, samples)
    check(out, case, inputs["attention_mask"][samples], samples)


@both_executions
@pytest.mark.parametrize("case", ["ltp_b3_delta", "tk_bert_feat_b1"])
def test_scores_match_wherever_a_living_token_was_scored(case: str, execution: str) -> None:
    inputs, want = arrays(case, "inputs"), expected(case)
    out = run(case, inputs, execution)
    mask = inputs["attention_mask"].bool()
    before = torch.cat([mask[None], want["keep_masks"][:-1].bool() & mask])
    scored = before & ~want["scores"].isnan()
    assert scored.any(dim=(1, 2)).sum() >= 3
    torch.testing.assert_close(out.score[scored], want["scores"][scored], atol=1e-4, rtol=0)


def test_ltp_thresholds_are_the_original_ones() -> None:
    pruner = model("ltp_b3_delta").pruner
    want = expected("ltp_b3_delta")["thresholds"].tolist()
    assert want[0] == 0
    assert [pruner.decides(layer) for layer in range(4)] == [False, True, True, True]
    assert [pruner.threshold(layer) for layer in range(1, 4)] == want[1:]


def test_the_predictor_of_the_first_layer_matches_master() -> None:
    """`master` goes wrong only in its attention, so its first decisions are comparable, at batch 3."""
    inputs, want = arrays("tk_bert_master_b3", "inputs"), arrays("tk_bert_master_b3", "expected")
    out = run("tk_bert_master_b3", inputs, "masked")
    real = inputs["attention_mask"].bool()
    assert torch.equal(out.alive[0][real], want["keep_masks"][0].bool()[real])
    scored = real & ~want["scores"][0].isnan()
    torch.testing.assert_close(out.score[0][scored], want["scores"][0][scored], atol=1e-4, rtol=0)


def original(case: str) -> tuple[PaddedBatch, dict[str, Tensor]]:
    """A case's batch, and what was recorded of it; two segments only where they were given."""
    inputs = arrays(case, "inputs")
    types = inputs.get("token_type_ids", torch.zeros_like(inputs["input_ids"]))
    return PaddedBatch(inputs["input_ids"], inputs["attention_mask"], types), arrays(case, "expected")


# `feat_skim_eval` removes rows in batches of one: its runs are SkimRT's, above.
@pytest.mark.parametrize("case", [case for case in CASES if case != "tk_bert_feat_b1"])
def test_the_execution_of_the_originals_is_theirs(case: str) -> None:
    """At every real token, dead ones too; of `master` with its padding that lives and its mask behind the softmax."""
    batch, want = original(case)
    run = run_transkimmer if case.startswith("tk") else run_ltp
    out, real = run(model(case), batch), batch.mask.bool()
    torch.testing.assert_close(out.logits, want["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.states[real], want["last_hidden_state"][real], atol=1e-4, rtol=0)
    considered = torch.ones_like(real) if case.startswith("tk") else real
    assert torch.equal(out.alive & considered, want["keep_masks"].bool() & considered)
    if "scores" in want:
        scored = real & ~want["scores"].isnan()
        assert scored.any(dim=(1, 2)).sum() >= 3
        torch.testing.assert_close(out.score[scored], want["scores"][scored], atol=1e-4, rtol=0)
