"""GET /health, /ready, /info and /metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engines.runner import Runner
from engines.version import __version__
from tests.serve.serving import served

RunnerOf = Callable[[str], Runner]


def test_it_says_what_it_is(runner_of: RunnerOf) -> None:
    runner = runner_of("classification")
    with served(runner, texts=3) as client:
        assert client.get("/health").body == {"status": "alive"}
        assert client.get("/ready").status == 200
        info = client.get("/info").body
    assert (info["version"], info["method"], info["max_length"]) == (__version__, "toy", 24)
    assert info["head"] == {"kind": "classification", "labels": ["no", "yes"], "pooling": "first"}
    assert (info["target"], info["provider"]) == (runner.backend.target, runner.backend.provider)
    assert info["limits"]["texts"] == 3 and len(info["stages"]) == 3


def test_every_text_and_token_is_counted(runner_of: RunnerOf) -> None:
    runner, texts = runner_of("classification"), ["w7 w8 w9", "w10", "w11 w12"]
    with served(runner) as client:
        client.post("/predict", {"inputs": [*texts, ""]})
        client.get("/nowhere")
        client.get("/elsewhere")
        families = list(text_string_to_metric_families(client.text("/metrics")))
    found = {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
    predictions = runner(texts)
    assert found["skimrt_requests_total", "/predict", "200"] == 1
    assert found["skimrt_requests_total", "other", "404"] == 2  # whatever is asked for, series do not grow
    assert found["skimrt_request_seconds_count", "/predict"] == 1
    assert (found["skimrt_texts_total", "answered"], found["skimrt_texts_total", "refused"]) == (3, 1)
    assert found["skimrt_tokens_total",] == sum(one.tokens for one in predictions)
    for stage in range(3):
        kept = sum(one.retention[stage] for one in predictions)
        assert found["skimrt_tokens_kept_total", str(stage)] == kept
    assert found["skimrt_call_texts_sum",] == found["skimrt_queue_seconds_count",] == 4
    assert found["skimrt_queue_texts",] == 0 and not any("_created" in name for name, *_ in found)


def test_nothing_is_exported_whatever_the_environment_says(
    runner_of: RunnerOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with caplog.at_level(logging.DEBUG), served(runner_of("classification")) as client:
        assert client.post("/predict", {"inputs": "w7"}).status == 200
    assert not [record for record in caplog.records if record.name.startswith(("fastapi", "opentelemetry"))]
