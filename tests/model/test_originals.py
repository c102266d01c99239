"""Random checkpoints of the papers' own code: converted, and run as theirs and as ours, against the float64 oracle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch import Tensor

from pipeline.model import PrunedTransformer
from pipeline.model.originals import read_original
from pipeline.model.originals.execution import Run, run_ltp, run_transkimmer
from pipeline.model.retention import PaddedBatch
from tests.goldens import GOLDEN, arrays
from tests.model.oracle import Oracle, Result

WIDTH, INNER, HEADS, LAYERS, WORDS, LENGTH = 16, 24, 2, 5, 30, 12
PADDING = {"bert": 0, "roberta": 1, "ltp": 1}
CLEAR = 1e-3
"""The least relative distance from another decision at which float32 must decide as float64 does."""
STEADY = 5e-6
"""Most that the oracle's own outputs may move by when float32 rounds the weights: sharp attention, and layer norms of
nearly equal numbers, can carry that beyond any tolerance."""
few = settings(max_examples=20)
Settings = tuple[tuple[str, Any], ...]


@cache
def original(model_type: str, skims: bool, seed: int, gain: float, more: Settings) -> tuple[Oracle, PrunedTransformer]:
    """A random checkpoint under the original names, as the oracle and as the converted model."""
    raw = {
        "model_type": model_type,
        "vocab_size": WORDS,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": LENGTH + 2,
        "type_vocab_size": 2 if model_type == "bert" else 1,
        "layer_norm_eps": 1e-12 if model_type == "bert" else 1e-5,
        "pad_token_id": PADDING[model_type],
        "id2label": {"0": "a", "1": "b", "2": "c"},
        **dict(more),
    }
    deltas = raw.pop("deltas", (0.0,) * LAYERS)
    tensors = _tensors(model_type, skims, np.random.default_rng(seed), gain)
    if model_type == "ltp":
        for layer, delta in enumerate(deltas):
            name = f"ibert.encoder.layer.{layer}.attention.self.pruner.keep_threshold"
            tensors[name] = np.array(delta, np.float32)
    kind = "ltp" if model_type == "ltp" else "transkimmer" if skims else "huggingface"
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(raw), "utf-8")
        save_file(tensors, Path(folder) / "model.safetensors")
        return Oracle(raw, tensors), read_original(kind, Path(folder), LENGTH).model()


def _tensors(model_type: str, skims: bool, random: np.random.Generator, gain: float) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def linear(name: str, inputs: int, outputs: int, scale: float = 1.0) -> None:
        found[f"{name}.weight"] = random.normal(0, scale * inputs**-0.5, (outputs, inputs))
        found[f"{name}.bias"] = random.normal(0, 0.1, outputs)

    def norm(name: str) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = random.normal(1, 0.1, WIDTH), random.normal(0, 0.1, WIDTH)

    base = {"ltp": "ibert"}.get(model_type, model_type)
    rows = {"word": WORDS, "position": LENGTH + 2, "token_type": 2 if model_type == "bert" else 1}
    for name, count in rows.items():
        found[f"{base}.embeddings.{name}_embeddings.weight"] = random.normal(0, 1, (count, WIDTH))
    norm(f"{base}.embeddings.LayerNorm")
    for layer in range(LAYERS):
        name = f"{base}.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{name}.attention.self.{part}", WIDTH, WIDTH, 1.0 if part == "value" else gain)
        linear(f"{name}.attention.output.dense", WIDTH, WIDTH)
        norm(f"{name}.attention.output.LayerNorm")
        linear(f"{name}.intermediate.dense", WIDTH, INNER)
        linear(f"{name}.output.dense", INNER, WIDTH)
        norm(f"{name}.output.LayerNorm")
        if skims:
            name = f"{base}.encoder.skim_predictors.{layer}.predictor"
            norm(f"{name}.0")
            linear(f"{name}.1", WIDTH, WIDTH)
            norm(f"{name}.2")
            linear(f"{name}.4", WIDTH, 2)
            found[f"{name}.4.bias"] += [-0.4, 0.4]
    if model_type == "bert":
        linear("bert.pooler.dense", WIDTH, WIDTH)
        linear("classifier", WIDTH, 3)
    else:
        linear("classifier.dense", WIDTH, WIDTH)
        linear("classifier.out_proj", WIDTH, 3)
    return {name: value.astype(np.float32) for name, value in found.items()}


def batch_of(model_type: str, lengths: Sequence[int], padded: int, seed: int) -> PaddedBatch:
    """Random texts of these lengths, padded on the right."""
    random, padding = np.random.default_rng(seed), PADDING[model_type]
    ids = torch.full((len(lengths), padded), padding)
    types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.from_numpy(random.integers(2, WORDS, length))
        mask[row, :length] = 1
        types[row, length // 2 : length] = int(model_type == "bert")
    return PaddedBatch(ids, mask, types)


def results_of(oracle: Oracle, batch: PaddedBatch, renormalised: bool | None = None) -> list[Result]:
    """The oracle on every text; with Transkimmer's attention of either kind, or (None) LTP's and dense."""
    rows = [tuple(part[row].numpy() for part in batch) for row in range(len(batch.mask))]
    if renormalised is None:
        return [oracle.ltp(ids, mask) for ids, mask, _ in rows]
    return [oracle.transkimmer(ids, mask, types, renormalised) for ids, mask, types in rows]


def is_steady(oracle: Oracle, batch: PaddedBatch, want: Sequence[Result]) -> bool:
    """Whether float32 can be held to the tolerance on these texts at all."""
    moved = [
        np.abs(getattr(ours, name) - getattr(theirs, name)).max()
        for nudged in oracle.nudged
        for ours, theirs in zip(want, results_of(nudged, batch), strict=True)
        for name in ("logits", "states")
    ]
    return max(moved) < STEADY


def close(found: Tensor | np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-4, rtol=0)


def check_theirs(run: Run, batch: PaddedBatch, want: Sequence[Result]) -> None:
    """The originals' execution at every real token, dead or alive."""
    states, alive, score = run.states.numpy(), run.alive.numpy(), run.score.numpy()
    for row, result in enumerate(want):
        real = batch.mask[row].numpy() > 0
        close(run.logits[row], result.logits)
        close(states[row, real], result.states[real])
        assert np.array_equal(alive[:, row, real], result.alive[:, real])
        close(score[:, row, real], result.score[:, real])


def check_ours(model: PrunedTransformer, batch: PaddedBatch, want: Sequence[Result], dead_too: bool) -> None:
    """SkimRT's executions, where they are defined alike: states of the first token and the living, or of all real ones.

    Scores are of tokens that were alive; those of topk are ranks.
    """
    for execution in ("masked", "compacted"):
        with torch.no_grad():
            out = model(*batch, execution=execution)
        states, alive, score = out.last_hidden_state.numpy(), out.alive.numpy(), out.score.numpy()
        for row, result in enumerate(want):
            real = batch.mask[row].numpy() > 0
            defined = real if dead_too else real & result.alive[-1]
            defined = defined | (np.arange(len(real)) == 0)
            close(out.logits[row], result.logits)
            close(states[row, defined], result.states[defined])
            assert np.array_equal(alive[:, row], result.alive & real)
            scored = ~np.isnan(score[:, row])
            if model.config.pruner.method in ("ltp", "threshold", "transkimmer"):
                close(score[:, row][scored], result.score[scored])


@st.composite
def batches(draw: st.DrawFn, model_type: str, padded: int | None = None) -> PaddedBatch:
    lengths = draw(st.lists(st.integers(1, padded or LENGTH), min_size=1, max_size=3))
    length = padded or draw(st.integers(max(lengths), LENGTH))
    return batch_of(model_type, lengths, length, draw(st.integers(0, 2**20)))


@few
@given(st.data())
def test_ltp_decides_as_the_oracle_does(data: st.DataObject) -> None:
    """With thresholds below 0 (the floor), at 0 in layer 0, and so high that the first token dies, or every token."""
    final = data.draw(st.sampled_from([0.5, 1.0, 1.5, 6.0])) / LENGTH
    deltas = data.draw(st.tuples(st.just(0.0), *[st.sampled_from([0.0, 0.02, -0.03, -2.0])] * (LAYERS - 1)))
    more = (("prune_mode", "absolute_threshold"), ("final_token_threshold", final), ("deltas", deltas))
    gain = data.draw(st.sampled_from([1.0, 4.0]))
    oracle, model = original("ltp", False, data.draw(st.integers(0, 3)), gain, more)
    batch = data.draw(batches("ltp", LENGTH))
    want = results_of(oracle, batch)
    assume(min(result.margin for result in want) > CLEAR and is_steady(oracle, batch, want))
    check_theirs(run_ltp(model, batch), batch, want)
    check_ours(model, batch, want, dead_too=False)


@few
@given(st.data())
def test_ltp_scores_depend_on_the_padding_in_the_original_alone(data: st.DataObject) -> None:
    more = (("prune_mode", "absolute_threshold"), ("final_token_threshold", 1.2 / LENGTH))
    oracle, model = original("ltp", False, data.draw(st.integers(0, 3)), 1.0, more)
    batch = data.draw(batches("ltp"))
    want = results_of(oracle, batch)
    assume(min(result.margin for result in want) > CLEAR)
    check_theirs(run_ltp(model, batch), batch, want)
    wide = PaddedBatch(*(torch.nn.functional.pad(part, (0, LENGTH - part.shape[1])) for part in batch))
    wide = wide._replace(input_ids=torch.where(wide.mask > 0, wide.input_ids, PADDING["ltp"]))
    want = results_of(oracle, wide)
    assume(min(result.margin for result in want) > CLEAR)
    narrow = [
        Result(r.logits, r.states[:length], r.alive[:, :length], r.score[:, :length], r.margin)
        for r in want
        for length in [batch.mask.shape[1]]
    ]
    check_ours(model, batch, narrow, dead_too=False)


@pytest.mark.parametrize("mode", ["threshold", "topk"])
@few
@given(st.data())
def test_the_baselines_decide_as_the_oracle_does(mode: str, data: st.DataObject) -> None:
    asked = data.draw(st.sampled_from([0.05, 0.3, 0.6] if mode == "threshold" else [-0.5, 0.1, 0.5, 1.0]))
    more = (("prune_mode", mode), ("token_threshold" if mode == "threshold" else "token_keep_rate", asked))
    oracle, model = original("ltp", False, data.draw(st.integers(0, 3)), 1.0, more)
    batch = data.draw(batches("ltp"))
    want = results_of(oracle, batch)
    assume(min(result.margin for result in want) > CLEAR)
    check_theirs(run_ltp(model, batch), batch, want)
    if mode == "threshold":
        check_ours(model, batch, want, dead_too=False)


def test_topk_is_the_same_where_both_ways_of_rounding_agree() -> None:
    more = (("prune_mode", "topk"), ("token_keep_rate", 0.2))  # 0.6 and 0.2 of 10 and of 5 tokens
    oracle, model = original("ltp", False, 1, 1.0, more)
    batch = batch_of("ltp", [10, 5], 10, 3)
    want = results_of(oracle, batch)
    assert [result.alive[-1].sum() for result in want] == [2, 1]
    check_ours(model, batch, want, dead_too=False)


def test_the_properties_meet_dead_first_tokens_dead_texts_and_the_floor() -> None:
    more = (("prune_mode", "absolute_threshold"), ("final_token_threshold", 1.5 / LENGTH))
    floor = (("prune_mode", "absolute_threshold"), ("final_token_threshold", 0.1), ("deltas", (0.0, *[-2.0] * 4)))
    batch = batch_of("ltp", [12, 9, 4], LENGTH, 5)
    first, whole, floored = [], [], []
    for seed in range(4):
        oracle, model = original("ltp", False, seed, 4.0, more)
        want = results_of(oracle, batch)
        assert min(result.margin for result in want) > CLEAR
        check_theirs(run_ltp(model, batch), batch, want)
        check_ours(model, batch, want, dead_too=False)
        first += [not r.alive[-1][0] and r.alive[-1].any() for r in want]
        whole += [not r.alive[-1].any() for r in want]
        oracle, model = original("ltp", False, seed, 4.0, floor)
        want = results_of(oracle, batch)
        assert min(result.margin for result in want) > CLEAR
        check_ours(model, batch, want, dead_too=False)
        floored += [r.alive[-1].sum() < n for r, n in zip(want, [12, 9, 4], strict=True)]
    assert any(first) and any(whole) and any(floored)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@few
@given(st.data())
def test_transkimmer_decides_as_the_oracle_does(family: str, data: st.DataObject) -> None:
    """With `master`'s attention in its own execution, with one that is normalised in ours."""
    oracle, model = original(family, True, data.draw(st.integers(0, 3)), 1.0, ())
    batch = data.draw(batches(family))
    theirs, ours = results_of(oracle, batch, renormalised=False), results_of(oracle, batch, renormalised=True)
    assume(min(result.margin for result in [*theirs, *ours]) > CLEAR)
    check_theirs(run_transkimmer(model, batch), batch, theirs)
    check_ours(model, batch, ours, dead_too=True)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@few
@given(st.data())
def test_dense_models_compute_what_the_oracle_does(family: str, data: st.DataObject) -> None:
    oracle, model = original(family, False, data.draw(st.integers(0, 3)), 1.0, ())
    batch = data.draw(batches(family))
    batch = batch._replace(token_type_ids=torch.zeros_like(batch.token_type_ids))
    want = results_of(oracle, batch)
    check_theirs(run_ltp(model, batch), batch, want)
    check_ours(model, batch, want, dead_too=True)


@pytest.mark.parametrize("case", ["ltp_b3_delta", "tk_bert_master_b3", "tk_bert_feat_b1", "dense_roberta_b3"])
def test_the_oracle_computes_what_the_original_code_did(case: str) -> None:
    raw = json.loads((GOLDEN / case / "config.json").read_text("utf-8"))
    oracle = Oracle(raw, load_file(GOLDEN / case / "weights.safetensors"))
    inputs, want = arrays(case, "inputs"), arrays(case, "expected")
    types = inputs.get("token_type_ids", torch.zeros_like(inputs["input_ids"]))
    batch = PaddedBatch(inputs["input_ids"], inputs["attention_mask"], types)
    found = results_of(oracle, batch, "feat" in case if case.startswith("tk") else None)
    for row, result in enumerate(found):
        real = batch.mask[row].numpy() > 0
        close(want.get("logits_eps0", want["logits"])[row], result.logits)
        assert np.array_equal(want["keep_masks"][:, row].numpy()[:, real] > 0, result.alive[:, real])
        close(want.get("last_hidden_state_eps0", want["last_hidden_state"])[row].numpy()[real], result.states[real])
