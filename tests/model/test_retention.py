"""What samples carry, computed without running more of the model than decides it."""

from __future__ import annotations

import pytest
import torch

from pipeline.gates import Reference
from pipeline.model.flops import flops_ratio
from pipeline.model.retention import carried_rows, undecided
from tests.conftest import METHODS, TinyModel
from tests.graph.small import random_samples, small_model

SAMPLES = random_samples(20)


@pytest.mark.parametrize("protect_first", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_rows_are_those_of_the_whole_run(method: str, protect_first: bool) -> None:
    model = small_model(method, layers=2, protect_first=protect_first)
    rows, reference = carried_rows(model, SAMPLES), Reference.of(model, SAMPLES)
    assert rows[:, 0].tolist() == [len(sample) for sample in SAMPLES]
    assert torch.equal(rows[:, 1:], torch.stack(reference.counts).long())
    assert flops_ratio(model.config, rows) == reference.flops_ratio(model)


def test_nothing_behind_the_last_decision_is_computed(tiny_model: TinyModel) -> None:
    model = tiny_model("transkimmer")
    last = max(step.layer for step in model.steps if step.kind == "decide")
    seen: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda *_, number=number: seen.append(number))
        for number, layer in enumerate(model.feed_forward)
    ]
    carried_rows(model, SAMPLES[:3])
    for hook in hooks:
        hook.remove()
    assert set(seen) == set(range(last))  # Transkimmer decides in front of its layer


@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
def test_what_is_decided_otherwise_is_counted_from_what_was_computed_once(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(method, layers=3)
    before, first = list(undecided(model, SAMPLES)), carried_rows(model, SAMPLES)
    for parameter in model.pruner.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(5))
    if model.config.pruner.thresholds is not None:
        thresholds = [1.2 * value for value in model.config.pruner.thresholds]
        monkeypatch.setattr(model.pruner, "threshold", thresholds.__getitem__)
    expected = carried_rows(model, SAMPLES)
    assert not torch.equal(expected, first)
    monkeypatch.setattr(type(model), "embed", lambda *_: pytest.fail("it is computed again"))
    assert torch.equal(carried_rows(model, SAMPLES, before), expected)


def test_a_dense_model_is_not_run_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("dense", layers=2)
    monkeypatch.setattr(type(model), "embed", lambda *_: pytest.fail("it decides nothing"))
    rows = carried_rows(model, SAMPLES)
    assert (rows == rows[:, :1]).all() and flops_ratio(model.config, rows) == 1
