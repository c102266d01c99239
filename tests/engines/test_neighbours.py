"""Results never depend on padding, bucket, batch or neighbours, whatever the weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import Runner
from engines.tokenization import Tokens
from tests.engines.driving import check
from tests.engines.toy import MAX_LENGTH, NAN_WORD, WIDTH, WORDS, Toy, random_tokens

samples_of_any_kind = st.lists(
    st.tuples(st.lists(st.integers(1, WORDS - 1), min_size=1, max_size=MAX_LENGTH), st.integers(0, 1)), max_size=9
)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 30),
    max_batch=st.sampled_from([None, 1]),
    window=st.integers(1, 40),
)
def test_results_do_not_depend_on_neighbours(
    seed: int, count: int, max_batch: int | None, window: int, shared_runners
) -> None:
    toy, runner = shared_runners(max_batch, window)
    samples = random_tokens(seed, count)
    check(toy, samples, runner.run_tokens(samples))


@pytest.fixture(scope="session")
def shared_runners(toy_artifact):
    """Runners of a tagging model that differ in what they may batch; engines are loaded once per batch limit."""
    toy, runners = Toy(head="tagging"), {}

    def make(max_batch: int | None, window: int) -> tuple[Toy, Runner]:
        if max_batch not in runners:
            runners[max_batch] = Runner(toy_artifact(toy), max_batch=max_batch)
        runners[max_batch]._window = window
        return toy, runners[max_batch]

    return make


@dataclass(frozen=True)
class Extreme(Toy):
    """Embeddings of any size, some words NaN or infinite."""

    @property
    def table(self) -> np.ndarray:
        rng = np.random.default_rng(2)
        table = rng.normal(size=(WORDS, WIDTH)).astype(np.float32)
        table[4::3] *= np.float32(1e-30)
        table[5::3] *= np.float32(1e30)
        table[[NAN_WORD, 0]] = np.nan  # 0 is what a buffer holds before its first text
        table[8] = np.inf
        return table


@settings(max_examples=30)
@given(st.lists(samples_of_any_kind, min_size=1, max_size=3))
def test_results_never_depend_on_padding_bucket_batch_or_neighbours(toy_artifact, rounds: list) -> None:
    """Also of what was in the buffers before: every sample gives what it gives alone, or fails as it fails alone."""
    together, alone = extreme_runners(toy_artifact)
    for samples in rounds:
        tokens = [Tokens(ids, [segment] * len(ids), len(ids)) for ids, segment in samples]
        errors: list[str] = []
        results = list(together._run(tokens, lambda error, errors=errors: errors.append(str(error))))
        expected: list[Any] = []
        wrong = []
        for number, sample in enumerate(tokens, 1):
            lone: list[str] = []
            expected += alone._run([sample], lambda error, lone=lone: lone.append(str(error)))
            wrong += [text.replace("text 1;", f"text {number};") for text in lone]
        assert errors == wrong
        assert [r.carried for r in results] == [r.carried for r in expected]
        for ours, theirs in zip(results, expected, strict=True):
            np.testing.assert_allclose(ours.logits, theirs.logits, rtol=1e-5)
            assert [list(s) for s in ours.survivors] == [list(s) for s in theirs.survivors]


@lru_cache
def extreme_runners(toy_artifact) -> tuple[Runner, Runner]:
    """One for whatever comes; one whose every call has one sample, in a batch of one."""
    path = toy_artifact(Extreme())
    return Runner(path, threads=1), Runner(path, threads=1, max_batch=1)
