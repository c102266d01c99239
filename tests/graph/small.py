"""Models of one or two layers, whose stages are quick to export, and batches for them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from engines.tokenization import Tokens
from pipeline.model import PrunedTransformer
from tests.conftest import LONGEST, WORDS, build_tiny_model


@cache
def small_model(
    method: str, layers: int = 1, head: str = "classification", seed: int = 0, protect_first: bool = True
) -> PrunedTransformer:
    """The first `layers` layers of a tiny random model; all decide, unless it is dense. Do not change it."""
    deep = build_tiny_model(method, head, seed=seed, protect_first=protect_first)
    pruner = {
        name: values[-layers:] if isinstance(values, list) else values
        for name, values in deep.config.pruner.model_dump().items()
    }
    encoder = deep.config.encoder.model_copy(update={"layers": layers})
    config = deep.config.model_copy(update={"encoder": encoder, "pruner": deep.config.pruner.model_copy(update=pruner)})
    model, weights = PrunedTransformer(config), deep.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval()


def random_batch(lengths: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids, token_type_ids, mask [B, longest] of samples of these real lengths, padded behind; int32."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1])[None, :] < torch.tensor(lengths)[:, None]).int()
    ids = torch.randint(4, WORDS, shape, generator=generator, dtype=torch.int32) * mask
    types = (torch.arange(shape[1])[None, :] >= torch.tensor(lengths)[:, None] // 2).int() * mask
    return ids, types, mask


def random_samples(count: int, seed: int = 0) -> list[Tokens]:
    """Inputs of 3 to LONGEST tokens."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for length in torch.linspace(3, LONGEST, count).int().tolist():
        ids = torch.randint(4, WORDS, (length,), generator=generator).tolist()
        samples.append(Tokens(ids, [0] * length, length))
    return samples
