"""The first translators of a pruner: the linear maps that predict a dropped token's state behind the last layer.

As the tuned lens (Belrose et al., 2023), but found in closed form: ridge regression over the tokens of training texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.tokenization import Tokens
from pipeline.model.retention import by_length, padded
from pipeline.model.transformer import PrunedTransformer, State

_RIDGE = 1e-3
"""What is added to the diagonal, times its mean: a map of few tokens stays near the one that does nothing."""


@torch.no_grad()
def fit_translators(model: PrunedTransformer, samples: Sequence[Tokens]) -> None:
    """Sets the translators that still give what they take, to maps from the states at their decisions to the last ones.

    Both are those of a model that drops nothing.
    """
    width = model.config.encoder.hidden_size
    known = {} if model.pruner.translators is None else dict(model.pruner.translators.items())
    fresh = {n: module for n, module in known.items() if isinstance(module, nn.Linear) and _gives_what_it_takes(module)}
    if not fresh:
        return
    squares = {name: torch.zeros(width + 1, width + 1, dtype=torch.float64) for name in fresh}
    products = {name: torch.zeros(width + 1, width, dtype=torch.float64) for name in fresh}
    for chosen in by_length(samples):
        ids, mask, types = padded([samples[index] for index in chosen], model.config.encoder.pad_token_id)
        at: dict[int, Tensor] = {}

        def look(layer: int, _: Tensor, state: State, at: dict[int, Tensor] = at) -> State:
            at[layer] = model.finished(state.hidden)
            return state

        last = model.finished(model.walk(model.embed(ids, types, mask), model.steps, look).hidden)
        real = mask.bool()
        for name in fresh:
            states = at[int(name)][real].double()
            x = F.pad(states, (0, 1), value=1.0)
            squares[name] += x.T @ x
            products[name] += x.T @ (last[real].double() - states)
    for name, linear in fresh.items():
        square = squares[name] + _RIDGE * squares[name].diagonal().mean() * torch.eye(width + 1)
        found = torch.linalg.solve(square, products[name])
        linear.weight.copy_(torch.eye(width) + found[:-1].T)
        linear.bias.copy_(found[-1])


def _gives_what_it_takes(linear: nn.Linear) -> bool:
    """Whether it is as `Pruner.add_translators` makes it."""
    return bool((linear.weight == torch.eye(linear.in_features)).all()) and not bool(linear.bias.any())
