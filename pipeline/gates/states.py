"""What stages are fed with: the reference's own state in front of each of them, stacked into buckets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from engines.buckets import Bucket
from engines.stages import CARRIED, POOLED, POOLED_ON
from engines.tokenization import Tokens
from pipeline.graph.evaluate import Arrays, run_module
from pipeline.graph.stages import Stage, StageSpec
from pipeline.model.transformer import PrunedTransformer


@torch.no_grad()
def walk_states(
    model: PrunedTransformer, specs: Sequence[StageSpec], samples: Sequence[Tokens]
) -> Iterator[tuple[StageSpec, list[Arrays]]]:
    """For every stage, the state in which the reference has each sample in front of it, one sample at a time."""
    states = [
        {
            "input_ids": np.asarray(item.input_ids, np.int32),
            "token_type_ids": np.asarray(item.token_type_ids, np.int32),
            "alive": np.ones(len(item), np.int32),
        }
        for item in samples
    ]
    for spec in specs:
        yield spec, states
        if not spec.last:
            stage = Stage(model, spec)
            states = [_next_state(run_module(stage, {k: v[None] for k, v in state.items()})) for state in states]


def fill_bucket(states: Sequence[Arrays], bucket: Bucket) -> tuple[Arrays, int]:
    """A batch of the samples of `fed_to` and how many they are."""
    fed = fed_to(states, bucket)
    return stack_states([cut(states[index], rows) for index, rows in fed], bucket), len(fed)


def fed_to(states: Sequence[Arrays], bucket: Bucket) -> list[tuple[int, int]]:
    """Which samples a bucket is fed with, and how many rows of each: those that fit, else the first rows of the
    shortest, so that no engine is left out."""
    lengths = rows_of(states)
    fitting = _chosen_for(lengths, bucket)
    if fitting:
        return [(index, lengths[index]) for index in fitting]
    return [(min(range(len(lengths)), key=lengths.__getitem__), bucket.length)]


def cut(state: Arrays, rows: int) -> Arrays:
    """The first rows of a sample."""
    return {name: value if name == POOLED else value[:rows] for name, value in state.items()}


def rows_of(states: Sequence[Arrays]) -> list[int]:
    """Rows of every sample."""
    return [len(state["alive"]) for state in states]


def _chosen_for(lengths: Sequence[int], bucket: Bucket) -> list[int]:
    """The longest samples that fit. In batches of more than two the last one is left to padding."""
    fitting = sorted((i for i, n in enumerate(lengths) if n <= bucket.length), key=lambda i: -lengths[i])
    return fitting[: bucket.batch - 1 if bucket.batch > 2 else bucket.batch]


def stack_states(states: Sequence[Arrays], bucket: Bucket) -> Arrays:
    """The samples at the front of a bucket, zeros behind them."""
    batch = {
        name: np.zeros((bucket.batch, bucket.length, *value.shape[1:]), value.dtype)
        for name, value in states[0].items()
        if name != POOLED
    }
    for index, state in enumerate(states):
        for name in batch:
            batch[name][index, : len(state[name])] = state[name]
    if POOLED in states[0]:
        pooled = [state[POOLED] for state in states]
        batch[POOLED] = np.stack(pooled + [np.zeros_like(pooled[0])] * (bucket.batch - len(pooled)))
    return batch


def random_hidden(buckets: Sequence[Bucket], width: int) -> list[tuple[Bucket, Arrays]]:
    """What a token-level head is fed with, for every bucket: it computes every row by itself, whatever they hold."""
    generator = np.random.default_rng(0)
    shapes = [(bucket, (bucket.batch, bucket.length, width)) for bucket in buckets]
    return [(bucket, {"hidden": generator.standard_normal(shape, np.float32)}) for bucket, shape in shapes]


def holding(states: Sequence[Arrays]) -> Bucket:
    """A batch for all of these samples, and one for padding."""
    return Bucket(batch=len(states) + 1, length=max(rows_of(states)))


def _next_state(outputs: Arrays) -> Arrays:
    rows = int(outputs["count"][0])
    following = {ours: outputs[theirs][0, :rows] for ours, theirs in CARRIED.items()}
    return following | {POOLED: outputs[POOLED_ON][0]} if POOLED_ON in outputs else following


def edge_buckets(buckets: Sequence[Bucket]) -> list[Bucket]:
    """The shortest and the longest bucket of every batch size, in order."""
    ends = {batch: sorted(b for b in buckets if b.batch == batch) for batch in {b.batch for b in buckets}}
    return sorted({found[end] for found in ends.values() for end in (0, -1)})
