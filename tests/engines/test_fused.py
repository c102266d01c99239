"""Fused engines: whatever their capacities are, the answers are those of the stages; and the plans that they need."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import Runner
from engines.artifact import Artifact
from engines.backends import choose_backend
from engines.backends.base import EngineOptions
from engines.buckets import parse_buckets
from engines.errors import InputError, SkimError
from engines.tokenization import Tokens
from tests.engines.test_artifact import edit, refusal
from tests.engines.test_runner import check
from tests.engines.toy import MAX_LENGTH, NAN_WORD, Toy, random_tokens

TOYS = {"alive": Toy(), "first may die": Toy(protect_first=False, thresholds=(0.2, 0.1))}


def falling(rooms: tuple[int, ...], length: int) -> list[int]:
    """Capacities as a bucket of this length can have them."""
    return [min([length, *rooms[: cut + 1]]) for cut in range(len(rooms))]


@pytest.fixture(scope="module")
def fused_artifact(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Callable[..., Path]:
    """Writes an artifact whose fused engines have these capacities, shortened where a bucket is; once each."""

    @lru_cache
    def make(rooms: tuple[int, ...], name: str = "alive", shapes: str = "1x8,1x24,3x8,3x24") -> Path:
        toy, folder = TOYS[name], tmp_path_factory.mktemp("fused")
        fused = {bucket: falling(rooms, bucket.length) for bucket in parse_buckets(shapes)}
        return toy.write(folder / "artifact", tiny_tokenizer, fused=fused)

    return make


@settings(max_examples=15)
@given(
    rooms=st.tuples(st.integers(1, MAX_LENGTH), st.integers(1, MAX_LENGTH)),
    name=st.sampled_from(list(TOYS)),
    seed=st.integers(0, 1000),
    max_batch=st.sampled_from([None, 1]),
)
def test_any_capacities_give_the_answers_of_the_stages(
    fused_artifact, rooms: tuple[int, int], name: str, seed: int, max_batch: int | None
) -> None:
    toy, samples = TOYS[name], random_tokens(seed, 20)
    runner = Runner(fused_artifact(rooms, name), max_batch=max_batch)
    check(runner, toy, samples)
    too_many = 0
    for tokens in samples:
        _, survivors = toy.reference(tokens)
        counts = [len(alive) + (0 not in alive) for alive in survivors[:-1]]
        # The shortest bucket of the scheduler's choice may be longer than the sample, but is one of these two.
        bucket = 8 if len(tokens) <= 8 else MAX_LENGTH
        too_many += any(count > room for count, room in zip(counts, falling(rooms, bucket), strict=True))
    assert runner.fused is not None and runner.fused.samples == len(samples)
    if max_batch == 1:
        assert runner.fused.overflowed == too_many


@pytest.mark.parametrize("rooms", [(24, 24), (8, 4), (1, 1)])
def test_every_provider_gives_the_same(fused_artifact, provider: str, rooms: tuple[int, int]) -> None:
    runner = Runner(fused_artifact(rooms), provider=provider)
    check(runner, Toy(), random_tokens(0, 40))
    assert runner.fused is not None and bool(runner.fused.overflowed) == (rooms != (24, 24))


def test_what_fits_never_enters_a_stage(fused_artifact) -> None:
    runner = Runner(fused_artifact((24, 24)))
    check(runner, Toy(), random_tokens(0, 40))
    assert not runner._stages._engines
    staged = Runner(fused_artifact((24, 24)), fused=False)
    check(staged, Toy(), random_tokens(0, 40))
    assert staged.fused is None and staged._stages._engines


@pytest.mark.parametrize(("count", "goes"), [(1, False), (2, True), (3, True), (4, True), (40, True)])
def test_a_window_runs_at_one_batch_size(fused_artifact, count: int, goes: bool) -> None:
    """Of the batch sizes 1 and 3 only 3 is fused: a single sample goes through the stages."""
    runner = Runner(fused_artifact((24, 24), shapes="3x24"))
    check(runner, Toy(), random_tokens(0, count))
    assert runner.fused is not None and runner.fused.samples == (count if goes else 0)


def test_samples_longer_than_the_fused_engines_go_through_the_stages(fused_artifact) -> None:
    runner, samples = Runner(fused_artifact((8, 8), shapes="3x8")), random_tokens(5, 30)
    check(runner, Toy(), samples)
    assert runner.fused is not None and runner.fused.samples == sum(len(tokens) <= 8 for tokens in samples)


def test_nan_is_found_by_the_stages_which_name_themselves(fused_artifact) -> None:
    runner = Runner(fused_artifact((24, 24)))
    with pytest.raises(SkimError, match="stage 0: expected finite values, found NaN or infinity for text 2"):
        runner.run_tokens([Tokens([1, 2], [0, 0], 2), Tokens([NAN_WORD, 1, 2], [0, 0, 0], 3)])
    check(runner, Toy(), random_tokens(1, 3))


def test_engines_are_loaded_at_their_first_use_or_by_a_warm_up(fused_artifact) -> None:
    runner = Runner(fused_artifact((24, 24)), max_batch=1)
    assert runner.fused is not None and not runner.fused._engines
    runner.run_tokens([Tokens([5], [0], 1)])
    assert [str(bucket) for bucket in runner.fused._engines] == ["1x8"]
    runner.warm_up()
    assert [str(bucket) for bucket in runner.fused._engines] == ["1x8", "1x24"]


def test_a_capacity_for_every_operator(fused_artifact, tmp_path: Path) -> None:
    graph, (bucket,) = fused_artifact((8, 8)) / "stages" / "fused.onnx", parse_buckets("1x8")
    with pytest.raises(InputError, match="expected a TokenCompact for each of 1 capacities, found 2"):
        choose_backend("cpu").build(graph, bucket, tmp_path / "engine.onnx", EngineOptions(capacities=(8,)))


def first_bucket(manifest: dict) -> dict:
    return manifest["plan"]["fused"]["buckets"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["plan"].update(kind="staged"), "plan.kind: expected fused, found staged"),
        (lambda m: m["plan"].update(fused=None), "plan.kind: expected staged, found fused"),
        (lambda m: first_bucket(m).update(capacities=[8]), "1x8 has 1 capacities, expected one for each of the 2 cuts"),
        (lambda m: first_bucket(m).update(capacities=[4, 8]), r"expected capacities from 8 down, found \[4, 8\]"),
        (lambda m: first_bucket(m).update(capacities=[9, 8]), r"expected capacities from 8 down, found \[9, 8\]"),
        (lambda m: first_bucket(m).update(capacities=[8, 0]), "greater than 0"),
        (lambda m: m["plan"]["fused"]["buckets"].append(first_bucket(m)), "plan.fused.buckets: 1x8 is listed twice"),
        (lambda m: m["engines"].pop(), "lacks stage fused 3x24"),
        (lambda m: m["plan"]["fused"].update(graph="../fused.onnx"), "plan.fused.graph"),
        (lambda m: m["files"].pop("stages/fused.onnx"), "stages/fused.onnx is used but has no digest"),
        (lambda m: m["plan"]["fused"].update(overflow={"1": 1.5}), "plan.fused.overflow"),
    ],
)
def test_a_fused_plan_that_does_not_fit_together_is_refused(
    tmp_path: Path, tiny_tokenizer: Path, change: Callable[[dict], object], message: str
) -> None:
    fused = {bucket: (8, 8) for bucket in parse_buckets("1x8,3x24")}
    copy = Toy().write(tmp_path / "artifact", tiny_tokenizer, fused=fused)
    Artifact.open(copy)
    edit(copy, change)
    assert re.search(message, refusal(copy))
