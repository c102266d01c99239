"""The runner against a numpy reference: any mix of lengths, any batch, both providers, dead rows restored."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest

from engines import Runner, stage_runner
from engines.errors import InputError, SkimError
from engines.manifest_file import sealed
from engines.stage_runner import StageRunner
from engines.tokenization import Tokens
from tests.engines.driving import check as check_results
from tests.engines.toy import BUCKETS, MAX_LENGTH, NAN_WORD, WORDS, Toy, random_tokens, tokens_of, words

MODELS = {
    "classification": Toy(),
    "regression": Toy(head="regression"),
    "tagging": Toy(head="tagging"),
    "question_answering": Toy(head="question_answering"),
    "first may die": Toy(protect_first=False, thresholds=(0.2, 0.1)),
    "first may die, tagging": Toy(head="tagging", protect_first=False, thresholds=(0.2, 0.1)),
    "everything dies": Toy(thresholds=(1e9, 1e9)),
    "nothing dies": Toy(thresholds=(-1e9, -1e9)),
    "dense": Toy(thresholds=()),
    "dense tagging": Toy(thresholds=(), head="tagging"),
}


def check(runner: Runner, toy: Toy, samples: list[Tokens]) -> None:
    check_results(toy, samples, runner.run_tokens(samples))


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_the_reference(name: str, toy_artifact, provider: str) -> None:
    toy = MODELS[name]
    check(Runner(toy_artifact(toy), provider=provider), toy, random_tokens(0, 70))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 9])
def test_any_number_of_samples(count: int, toy_artifact, provider: str) -> None:
    check(Runner(toy_artifact(Toy()), provider=provider), Toy(), random_tokens(count, count))


@pytest.mark.parametrize("length", [1, 2, 4, 5, 8, 9, 12, 13, 24])
def test_lengths_at_and_behind_the_edges_of_buckets(length: int, toy_artifact, provider: str) -> None:
    rng = np.random.default_rng(length)
    check(Runner(toy_artifact(Toy()), provider=provider), Toy(), [tokens_of(rng, length) for _ in range(5)])


def test_one_sample_keeps_one_token_and_another_all(toy_artifact, provider: str) -> None:
    """Fault 11: a ragged batch. Words are chosen by their score, the first component of their embedding."""
    order = np.argsort(Toy().table[:NAN_WORD, 0])
    low, high = Tokens(order[:24].tolist(), [0] * 24, 24), Tokens(order[-24:].tolist(), [1] * 24, 24)
    runner = Runner(toy_artifact(Toy()), provider=provider)
    check(runner, Toy(), [low, high])
    assert len(runner.run_tokens([low])[0].survivors[-1]) < len(runner.run_tokens([high])[0].survivors[-1]) == 24


@pytest.mark.parametrize("threads", [None, 1])
def test_a_warm_up_loads_every_engine_once(threads: int | None, toy_artifact, provider: str, monkeypatch) -> None:
    toy = Toy(head="tagging")
    runner = Runner(toy_artifact(toy), provider=provider, threads=threads)
    loaded, load = [], runner.backend.load
    monkeypatch.setattr(
        type(runner.backend), "load", lambda self, file, *rest: loaded.append(file) or load(file, *rest)
    )
    runner.warm_up()
    named = {runner.artifact.file(record.file) for record in runner.manifest.engines}
    assert set(loaded) == named and len(loaded) == len(runner.manifest.engines)
    check(runner, toy, random_tokens(3, 20))
    assert len(loaded) == len(runner.manifest.engines)


def test_predictions_of_texts_and_pairs(toy_artifact) -> None:
    runner = Runner(toy_artifact(Toy()))
    single, pair = runner([words(3), (words(3), words(2, 9))])
    assert (single.tokens, pair.tokens) == (5, 8)
    for prediction in (single, pair):
        assert prediction.label in ("no", "yes") and 0.5 <= prediction.probability <= 1
        assert prediction.label == ("no", "yes")[int(np.argmax(prediction.logits))]
        assert len(prediction.retention) == 3
        assert prediction.keep_ratio == [count / prediction.tokens for count in prediction.retention]
        json.dumps(prediction.logits)


def test_one_text_is_one_text_and_one_pair_one_pair(toy_artifact) -> None:
    runner, text, pair = Runner(toy_artifact(Toy())), words(3), (words(3), words(2, 9))
    for one in (text, pair):
        assert runner(one) == runner([one])[0]
    assert runner(pair).tokens == 8
    assert [p.tokens for p in runner(list(pair))] == [5, 4] == [p.tokens for p in runner(iter(pair))]
    for no_texts in (text, pair, {"text": text}, text.encode(), 7):
        with pytest.raises(InputError, match="texts: expected several texts or pairs"):
            runner.stream(no_texts)


def test_a_text_beyond_the_bytes_that_are_read_is_an_error_or_cut(toy_artifact, monkeypatch) -> None:
    monkeypatch.setattr("engines.tokenization.MAX_BYTES", 100)
    monkeypatch.setattr("engines.inputs.MAX_BYTES", 100)
    path, wordy = toy_artifact(Toy()), words(100)
    for text in (wordy, (words(2), wordy), " " * 200 + "w5"):
        with pytest.raises(InputError, match=r"text 2: \d+ bytes, a text may have 100; shorten or cut it"):
            Runner(path)([words(2), text])
    assert [p.tokens for p in Runner(path, truncate=True)([wordy, (words(2), wordy)])] == [MAX_LENGTH, MAX_LENGTH]


def test_predictions_of_every_head(toy_artifact) -> None:
    text = words(4)
    value = Runner(toy_artifact(MODELS["regression"]))([text])[0]
    assert value.label is None and value.probability is None and len(value.logits) == 1
    tags = Runner(toy_artifact(MODELS["tagging"]))([text])[0]
    assert len(tags.label) == len(tags.probability) == len(tags.logits) == tags.tokens == 6
    answer = Runner(toy_artifact(MODELS["question_answering"]))([text])[0]
    assert isinstance(answer.label, tuple)
    first, last = answer.label
    assert 0 <= first <= last < answer.tokens and 0 < answer.probability <= 1


@pytest.mark.parametrize("labels", [["one"], ["no", "yes", "perhaps"]])
def test_another_number_of_labels_than_outputs_is_an_error(toy_artifact, tmp_path: Path, labels: list[str]) -> None:
    path = Path(shutil.copytree(toy_artifact(Toy()), tmp_path / "artifact"))
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    manifest["head"]["labels"] = labels
    (path / "manifest.json").write_bytes(sealed(manifest))
    with pytest.raises(InputError, match=f"a label for each of the model's 2 outputs, found {len(labels)}"):
        Runner(path)(words(2))


@pytest.mark.parametrize("text", ["", "  \n", ("", ""), "\udcff", 7])
def test_an_empty_text_or_none_is_an_error_that_names_it(toy_artifact, text) -> None:
    with pytest.raises(InputError, match="text 3"):
        Runner(toy_artifact(Toy()))([words(2), words(3), text])


def test_a_long_text_is_an_error_unless_truncation_is_asked_for(toy_artifact) -> None:
    """Fault 9: exactly the longest input passes, one more is refused with both numbers."""
    path = toy_artifact(Toy())
    assert Runner(path)([words(MAX_LENGTH - 2)])[0].tokens == MAX_LENGTH
    with pytest.raises(InputError, match=rf"text 2: {MAX_LENGTH + 1} tokens, the model takes {MAX_LENGTH}"):
        Runner(path)([words(2), words(MAX_LENGTH - 1)])
    assert Runner(path, truncate=True)([words(MAX_LENGTH + 9)])[0].tokens == MAX_LENGTH


@pytest.mark.parametrize(
    "tokens",
    [
        Tokens([WORDS], [0], 1),
        Tokens([-1], [0], 1),
        Tokens([2**40], [0], 1),
        Tokens([1], [2], 1),
        Tokens([], [], 0),
        Tokens([1, 2], [0], 2),
        Tokens([1] * (MAX_LENGTH + 1), [0] * (MAX_LENGTH + 1), MAX_LENGTH + 1),
    ],
)
def test_ids_out_of_range_never_reach_an_engine(toy_artifact, tokens: Tokens) -> None:
    """Fault 13."""
    with pytest.raises(InputError, match="text 2"):
        Runner(toy_artifact(Toy())).run_tokens([Tokens([1], [0], 1), tokens])


def test_nan_is_an_error_that_names_stage_and_sample(toy_artifact, provider: str) -> None:
    """Fault 30. The word is protected by standing first, so that no pruner can hide it."""
    broken = Tokens([NAN_WORD, 1, 2], [0, 0, 0], 3)
    runner = Runner(toy_artifact(Toy()), provider=provider, max_batch=1)
    with pytest.raises(SkimError, match="stage 0: expected finite values, found NaN or infinity for text 2"):
        runner.run_tokens([Tokens([1, 2], [0, 0], 2), broken])
    check(runner, Toy(), random_tokens(1, 3))


def test_threads_share_a_runner(toy_artifact, provider: str) -> None:
    """Fault 30: concurrent calls on one set of engines."""
    runner = Runner(toy_artifact(Toy()), provider=provider)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda seed: check(runner, Toy(), random_tokens(seed, 25)), range(6)))


def test_calls_take_turns_at_a_profile(toy_artifact, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 30: from filling a profile's buffers to reading its outputs, a call is alone with them."""
    inside, most = list[int](), list[int]()
    fill, move_on = stage_runner.fill, StageRunner._move_on

    def slow_fill(*arguments, **named) -> None:
        inside.append(1)
        most.append(len(inside))
        sleep(0.002)
        fill(*arguments, **named)

    def leave(*arguments) -> None:
        move_on(*arguments)
        inside.pop()

    monkeypatch.setattr(stage_runner, "fill", slow_fill)
    monkeypatch.setattr(StageRunner, "_move_on", leave)
    runner = Runner(toy_artifact(Toy()), provider=provider)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: runner.run_tokens(random_tokens(seed, 9)), range(4)))
    assert max(most) == 1


def test_an_empty_input_gives_nothing(toy_artifact) -> None:
    assert Runner(toy_artifact(Toy()))([]) == []


def test_first_use_makes_only_its_own_profiles_and_warm_up_all(toy_artifact) -> None:
    runner = Runner(toy_artifact(Toy()), max_batch=1)
    assert not runner._stages._engines
    runner.run_tokens([Tokens([5], [0], 1)])
    engines: dict[Any, Any] = dict(runner._stages._engines)
    assert len(engines) == 3 and all(set(engine._profiles) == {BUCKETS[0]} for engine in engines.values())
    runner.warm_up()
    assert runner._stages._engines == engines and all(len(engine._profiles) == 4 for engine in engines.values())


@pytest.mark.parametrize("option", [{"threads": 0}, {"max_batch": 0}, {"window": 0}, {"provider": "pytorch"}])
def test_impossible_options_are_input_errors(toy_artifact, option) -> None:
    with pytest.raises(InputError, match=next(iter(option))):
        Runner(toy_artifact(Toy()), **option)


def test_max_batch_below_the_smallest_bucket(tmp_path: Path, tiny_tokenizer: Path) -> None:
    """Fault 12: the error lists the buckets that there are."""
    Toy(thresholds=()).write(tmp_path / "a", tiny_tokenizer, [b for b in BUCKETS if b.batch == 3])
    with pytest.raises(InputError, match=r"--batch.*: expected at least .*, found the buckets .*3x24"):
        Runner(tmp_path / "a", max_batch=2)
    check(Runner(tmp_path / "a"), Toy(thresholds=()), random_tokens(0, 7))
