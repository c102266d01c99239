"""The controller that steers a run to its FLOPs ratio."""

from __future__ import annotations

import pytest
import torch

from pipeline.training.budget import FlopsBudget


@pytest.mark.parametrize("ratio", [2.0, 2.4, 4.0])
@pytest.mark.parametrize("resistance", [0.02, 0.3])
def test_it_steers_a_toy_to_the_wanted_ratio(ratio: float, resistance: float) -> None:
    """A cost in (0, 1) that a task loss of unknown weight pulls back up, under plain gradient descent."""
    logit, steps = torch.tensor(4.0, requires_grad=True), 600
    optimizer, budget = torch.optim.SGD([logit], lr=0.3), FlopsBudget(ratio, ramp=0.5)
    for step in range(steps):
        cost = torch.sigmoid(logit)
        loss = resistance * (1 - cost) ** 2 + budget.loss(cost, step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 1 / float(torch.sigmoid(logit.detach())) == pytest.approx(ratio, rel=0.05)


def test_a_model_within_budget_is_not_pressed() -> None:
    budget = FlopsBudget(2.0, ramp=0.0, average=0.4)
    cost = torch.tensor(0.4, requires_grad=True)
    assert budget.loss(cost, 1.0).item() == 0.0
    assert budget.accumulated == 0.0


def test_the_goal_moves_over_the_ramp() -> None:
    """At the start even the dense cost is within budget; behind the ramp its excess is pressed."""
    start, end = FlopsBudget(2.0, ramp=0.5), FlopsBudget(2.0, ramp=0.5)
    assert float(start.loss(torch.tensor(1.0), 0.0)) == 0.0
    halfway = float(FlopsBudget(2.0, ramp=0.5).loss(torch.tensor(1.0), 0.25))
    assert 0 < halfway < float(end.loss(torch.tensor(1.0), 0.5))
    assert float(end.loss(torch.tensor(1.0), 1.0)) == pytest.approx(4.0 + end.accumulated)


def test_the_gradient_is_that_of_the_cost_alone() -> None:
    cost = torch.tensor(1.0, requires_grad=True)
    budget = FlopsBudget(2.0, ramp=0.0)
    loss = budget.loss(cost, 1.0)
    loss.backward()
    assert float(cost.grad) == pytest.approx(loss.item())
