"""POST /predict, /rerank, /embed and /v1/embeddings: the runner's own answers, in the forms of others."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engines.runner import Runner
from engines.tokenization import Text
from tests.engines.toy import words
from tests.serve.serving import Client, served

RunnerOf = Callable[[str], Runner]
PASSAGES = ["w9 w10", "w11", "w40 w41 w42 w43", "w12 w7"]


@pytest.fixture(scope="module")
def client(runner_of: RunnerOf) -> Iterator[Client]:
    with served(runner_of("classification"), max_wait=0.02) as client:
        yield client


@pytest.fixture(scope="module")
def ranker(runner_of: RunnerOf) -> Iterator[Client]:
    with served(runner_of("ranking")) as client:
        yield client


@pytest.fixture(scope="module")
def embedder(runner_of: RunnerOf) -> Iterator[Client]:
    with served(runner_of("embedding")) as client:
        yield client


def told(runner: Runner, text: Text) -> dict:
    """What `skimrt run` prints of a text, with room for rounding."""
    record = runner([text])[0].record()
    return {
        **record,
        "logits": pytest.approx(record["logits"], abs=1e-5),
        "probability": pytest.approx(record["probability"], abs=1e-5),
    }


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("w7 w8", "w7 w8"),
        (["w7", "w9"], ("w7", "w9")),
        ({"text": "w7"}, "w7"),
        ({"text": "w7", "text_pair": "w9"}, ("w7", "w9")),
        ({"question": "w7", "context": "w9"}, ("w7", "w9")),
    ],
)
def test_texts_and_pairs_get_what_the_runner_says(client: Client, runner_of: RunnerOf, item, text) -> None:
    said = client.post("/predict", {"inputs": ["w4", item]})
    assert said.status == 200 and said.body["errors"] == 0
    assert said.body["predictions"][1] == told(runner_of("classification"), text)


def test_one_text_needs_no_list_and_a_list_of_two_is_two(client: Client) -> None:
    assert len(client.post("/predict", {"inputs": "w7 w8"}).body["predictions"]) == 1
    assert len(client.post("/predict", {"inputs": ["w7", "w8"]}).body["predictions"]) == 2
    assert client.post("/predict", {"inputs": []}).body == {"predictions": [], "errors": 0}


def test_a_bad_text_takes_no_others_answer(client: Client, runner_of: RunnerOf) -> None:
    texts = ["w7", "", words(40), 7, "w8"]
    said = client.post("/predict", {"inputs": texts})
    assert said.status == 200 and said.body["errors"] == 3
    first, empty, long, number, last = said.body["predictions"]
    runner = runner_of("classification")
    assert (first, last) == (told(runner, "w7"), told(runner, "w8"))
    assert empty == {"error": "text 2: expected at least one word, found an empty text"}
    assert long == {"error": "text 3: 42 tokens, the model takes 24; shorten or cut it (--truncate)"}
    assert number == {"error": "text 4: expected a text or a pair of texts, found int"}


def test_a_request_may_ask_to_be_refused_for_a_bad_text(client: Client) -> None:
    said = client.post("/predict", {"inputs": ["w7", "", 7], "on_error": "raise"})
    assert said.status == 422 and said.body["error_type"] == "Validation"
    assert "text 2: expected at least one word" in said.body["error"] and "text 3: " in said.body["error"]


def test_a_request_may_ask_for_its_texts_to_be_cut(client: Client) -> None:
    (cut,) = client.post("/predict", {"inputs": words(40), "truncate": True}).body["predictions"]
    assert cut["tokens"] == 24


def test_clients_at_once_share_calls_and_get_their_own_answers(client: Client, runner_of: RunnerOf) -> None:
    runner, texts = runner_of("classification"), [words(1 + n % 20, n) for n in range(24)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda text: client.post("/predict", {"inputs": text}).body["predictions"], texts))
    assert found == [[told(runner, text)] for text in texts]
    figures = dict(line.rsplit(" ", 1) for line in client.text("/metrics").splitlines() if line[0] != "#")
    assert float(figures["skimrt_call_texts_count"]) < float(figures["skimrt_call_texts_sum"])


def test_reranking_has_the_form_of_text_embeddings_inference(ranker: Client, runner_of: RunnerOf) -> None:
    expected = runner_of("ranking").rerank("w7 w8", PASSAGES)
    said = ranker.post("/rerank", {"query": "w7 w8", "texts": PASSAGES})
    assert said.status == 200
    sigmoids = [1 / (1 + math.exp(-one.score)) for one in expected]
    assert [set(one) for one in said.body] == [{"index", "score"}] * len(PASSAGES)
    assert [one["index"] for one in said.body] == [one.index for one in expected]
    assert [one["score"] for one in said.body] == pytest.approx(sigmoids, abs=1e-5)


def test_reranking_gives_what_is_asked_for_beside_the_score(ranker: Client, runner_of: RunnerOf) -> None:
    expected = runner_of("ranking").rerank("w7 w8", PASSAGES, top_k=2)
    more = {
        "raw_scores": True,
        "return_text": True,
        "top_n": 2,
        "return_context": True,
        "truncation_direction": "Right",
    }
    said = ranker.post("/rerank", {"query": "w7 w8", "texts": PASSAGES, **more})
    assert said.body == [
        {
            "index": one.index,
            "score": pytest.approx(one.score, abs=1e-5),
            "text": PASSAGES[one.index],
            "context": one.context,
        }
        for one in expected
    ]


def test_a_ranking_with_a_bad_text_is_refused(ranker: Client) -> None:
    said = ranker.post("/rerank", {"query": "w7", "texts": ["w8", words(40)]})
    assert said.status == 422 and "text 2: " in said.body["error"]


def test_embeddings_have_the_form_of_text_embeddings_inference(embedder: Client, runner_of: RunnerOf) -> None:
    texts = ["w7 w8", "w9"]
    vectors = np.array([one.logits for one in runner_of("embedding")(texts)])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.post("/embed", {"inputs": texts}).body, unit, atol=1e-5)
    plain = embedder.post("/embed", {"inputs": texts[0], "normalize": False}).body
    np.testing.assert_allclose(plain, vectors[:1], atol=1e-5)


def test_embeddings_have_the_form_of_openai(embedder: Client, runner_of: RunnerOf) -> None:
    texts = ["w7 w8", "w9"]
    said = embedder.post("/v1/embeddings", {"input": texts, "model": "any", "encoding_format": "base64"})
    assert said.status == 200 and said.body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    rows = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in said.body["data"]]
    np.testing.assert_allclose(rows, [one.logits for one in runner_of("embedding")(texts)], atol=1e-5)
    as_numbers = embedder.post("/v1/embeddings", {"input": texts}).body
    np.testing.assert_allclose([one["embedding"] for one in as_numbers["data"]], rows, atol=1e-5)
    assert [one["index"] for one in as_numbers["data"]] == [0, 1] and as_numbers["object"] == "list"


def test_another_kind_of_model_says_what_to_ask_it(client: Client, embedder: Client) -> None:
    ranking = client.post("/rerank", {"query": "w7", "texts": ["w8"]})
    assert ranking.status == 422 and "expected an artifact of a ranking model" in ranking.body["error"]
    assert client.post("/embed", {"inputs": "w7"}).body["error"].endswith("found a classification model; ask /predict")
    openai = client.post("/v1/embeddings", {"input": "w7"})
    assert (openai.status, openai.body["error"]["code"], openai.body["error"]["type"]) == (422, 422, "Validation")
    assert "embedding" in embedder.post("/predict", {"inputs": "w7"}).body["predictions"][0]
