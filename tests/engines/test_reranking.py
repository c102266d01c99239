"""Runner.rerank: order, ties, the words that stay, and what is refused; places of tokens in a cut pair."""

from __future__ import annotations

import numpy as np
import pytest

from engines import Runner
from engines.errors import InputError
from engines.reranking import surviving_words
from engines.stages import original
from engines.tokenization import TextEncoder
from tests.engines.toy import MAX_LENGTH, Toy, words

RANKING = Toy(head="ranking")


@pytest.fixture
def runner(toy_artifact) -> Runner:
    return Runner(toy_artifact(RANKING), truncate=True)


def test_passages_come_by_their_scores_with_the_words_that_stayed(runner: Runner) -> None:
    query, passages = words(3), [words(5, first) for first in (7, 20, 31, 44)]
    found = runner.rerank(query, passages)
    logits = [prediction.logits[0] for prediction in runner([(query, passage) for passage in passages])]
    assert [ranked.score for ranked in found] == sorted(logits, reverse=True)
    assert [ranked.score for ranked in found] == [logits[ranked.index] for ranked in found]
    pairs = [(query, passage) for passage in passages]
    results = runner.run_tokens(TextEncoder(runner.artifact.file("tokenizer/tokenizer.json"), MAX_LENGTH)(pairs))
    for ranked in found:
        passage = passages[ranked.index]
        behind = results[ranked.index].survivors[-1] - len(query.split()) - 2  # [CLS] query [SEP]
        expected = [word for place, word in enumerate(passage.split()) if place in behind]
        assert ranked.context.split() == expected
        assert ranked.context == " ".join(passage[start:end] for start, end in ranked.spans)
        assert ranked.retention[-1] == len(results[ranked.index].survivors[-1])
    assert any(len(ranked.context.split()) < 5 for ranked in found), "some word must die"
    assert any(ranked.context for ranked in found), "some word must stay"


def test_top_k_and_ties_keep_the_order_of_the_passages(runner: Runner) -> None:
    same = [words(4, 10)] * 3
    assert [ranked.index for ranked in runner.rerank(words(2), same)] == [0, 1, 2]
    assert [ranked.index for ranked in runner.rerank(words(2), same, top_k=2)] == [0, 1]
    assert runner.rerank(words(2), []) == []


def test_a_cut_passage_has_only_words_that_were_read(runner: Runner) -> None:
    query, passage = words(3), words(30, 4)
    (ranked,) = runner.rerank(query, [passage])
    assert ranked.tokens == MAX_LENGTH
    read = MAX_LENGTH - 3 - len(query.split())
    assert all(end <= len(" ".join(passage.split()[:read])) for _, end in ranked.spans)


def test_all_that_is_wrong_is_told_at_once(toy_artifact) -> None:
    other = Runner(toy_artifact(Toy()))
    with pytest.raises(InputError) as error:
        other.rerank(3, "one passage", top_k=0)  # type: ignore[arg-type]
    for part in ("a classification head", "query: expected a text, found a int", "found a str", "top_k"):
        assert part in str(error.value)


def test_words_are_whole_and_neighbours_are_one_span() -> None:
    passage = "one  twofold three, four"
    places = [(7, 0, 3), (8, 5, 8), (9, 8, 12), (10, 13, 18), (11, 18, 19), (12, 20, 24)]
    assert surviving_words(passage, places, np.array([0, 9, 11])) == [(5, 19)]
    assert surviving_words(passage, places, np.array([7, 12])) == [(0, 3), (20, 24)]
    assert surviving_words(passage, places, np.array([1, 2])) == []


def test_protected_places_are_places() -> None:
    assert original(np.array([-1, -2, -3, 3, 9], np.int32)).tolist() == [0, 1, 2, 3, 9]
