"""Where a model may be cut, and that its stages, one after the other, are the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engines.errors import InputError
from pipeline.graph.stages import HeadStage, Stage, cut_stages, decision_layers
from pipeline.model import PrunedTransformer
from tests.conftest import METHODS, TinyModel
from tests.graph.small import random_batch

LENGTHS = (23, 1, 9, 30)


def run_chain(model: PrunedTransformer, cuts: list[int], *batch: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the final alive set [B, S] of the stages, each as long as the longest sample's carried rows.

    For a token-level head every row is stored when it leaves: at the cut behind which it is not carried, or at the end.
    """
    ids, types, mask = batch
    states = torch.zeros(*ids.shape, model.config.encoder.hidden_size)
    alive_at_end = torch.zeros(ids.shape, dtype=torch.bool)
    inputs, rows = (ids, types, mask), mask.sum(1)
    for spec in cut_stages(model, cuts):
        outputs = Stage(model, spec)(*inputs)
        hidden, alive, position = outputs[:3]
        left = torch.zeros_like(rows) if spec.last else outputs[3]
        for sample in range(len(ids)):
            if spec.last:
                alive_at_end[sample, position[sample][alive[sample] > 0].long()] = True
            if model.config.head.token_level:
                leaving = slice(int(left[sample]), int(rows[sample]))
                states[sample, position[sample, leaving].long()] = hidden[sample, leaving]
        longest = int(left.max())
        inputs, rows = (hidden[:, :longest], alive[:, :longest], position[:, :longest]), left
    return HeadStage(model)(states) if model.config.head.token_level else hidden, alive_at_end


@torch.no_grad()
@pytest.mark.parametrize("protect_first", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_chained_stages_are_the_reference_wherever_it_is_cut(
    tiny_model: TinyModel, method: str, protect_first: bool
) -> None:
    model = tiny_model(method, protect_first=protect_first)
    ids, types, mask = random_batch(LENGTHS)
    expected = model(ids, mask, types)
    layers = decision_layers(model)
    for cuts in ([], layers[:1], layers[-1:], layers[::2], layers):
        logits, alive = run_chain(model, cuts, ids, types, mask)
        torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=0)
        assert torch.equal(alive, expected.alive[-1]), cuts
    if method != "dense":
        assert expected.alive[-1].sum() < 0.8 * mask.sum()  # otherwise nothing was tested


@torch.no_grad()
@pytest.mark.parametrize("head", ["tagging", "question_answering"])
@pytest.mark.parametrize("method", METHODS)
def test_token_level_heads_read_the_state_in_which_each_token_died(
    tiny_model: TinyModel, method: str, head: str
) -> None:
    model = tiny_model(method, head)
    ids, types, mask = random_batch(LENGTHS)
    expected = model(ids, mask, types)
    logits, alive = run_chain(model, decision_layers(model), ids, types, mask)
    real = mask.bool()
    torch.testing.assert_close(logits[real], expected.logits[real], atol=1e-5, rtol=0)
    assert torch.equal(alive, expected.alive[-1])


@pytest.mark.parametrize("method", METHODS)
def test_the_stages_hold_every_step_once_and_end_at_their_cuts(tiny_model: TinyModel, method: str) -> None:
    model = tiny_model(method)
    cuts = decision_layers(model)[-2:]
    specs = cut_stages(model, cuts[::-1])
    assert [step for spec in specs for step in spec.steps] == model.steps
    assert [spec.steps[-1].layer for spec in specs[:-1]] == cuts
    assert {spec.steps[-1].kind for spec in specs[:-1]} <= {"decide"}
    assert [spec.name for spec in specs] == [f"stage_{index}" for index in range(len(cuts) + 1)]
    assert [spec.last for spec in specs] == [False] * len(cuts) + [True]


def test_decision_points_lie_where_the_method_decides(tiny_model: TinyModel) -> None:
    ltp, transkimmer = (cut_stages(tiny_model(method), [1])[0].step_names for method in ("ltp", "transkimmer"))
    assert ltp[-2:] == ["attend 1", "decide 1"]
    assert transkimmer[-2:] == ["feed 0", "decide 1"]
    assert decision_layers(tiny_model("ltp")) == [1, 2, 3]  # layer 0 has a threshold of exactly 0
    assert decision_layers(tiny_model("dense")) == []


@pytest.mark.parametrize(
    ("method", "cuts", "message"),
    [
        ("ltp", [0, 2, 9], r"cuts \[0, 9\]: this ltp model decides at layers \[1, 2, 3\]"),
        ("transkimmer", [-1], r"cuts \[-1\]: this transkimmer model decides at layers \[0, 1, 2, 3\]"),
        ("dense", [1], r"cuts \[1\]: this dense model decides at layers none"),
    ],
)
def test_a_cut_without_a_decision_is_refused(tiny_model: TinyModel, method: str, cuts: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut_stages(tiny_model(method), cuts)


def test_a_token_level_head_needs_every_cut(tiny_model: TinyModel) -> None:
    with pytest.raises(InputError, match=r"tagging head .* cut at every decision: \[1, 2, 3\]"):
        cut_stages(tiny_model("ltp", "tagging"), [1, 3])


def test_the_operator_gets_what_the_model_decides_with(tiny_model: TinyModel) -> None:
    model = tiny_model("ltp", protect_first=False)
    first, second, _ = (Stage(model, spec) for spec in cut_stages(model, [1, 2]))
    expected = {"capacity": 0, "protect_first": 0, "plugin_namespace": "skimrt", "plugin_version": "1"}
    for stage, layer in ((first, 1), (second, 2)):
        assert stage.compact_attributes == {"threshold": model.pruner.threshold(layer), **expected}
