"""What a service counts, for Prometheus."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from engines.errors import SkimError
from engines.service import Call

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""The variable with the folder in which replicas add up, as the library names it."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


disable_created_metrics()  # when each series began: a third of the text, which nobody draws


class Metrics:
    """Counters of one process, or of all replicas where `SHARED` is set."""

    def __init__(self) -> None:
        to = self._registry = CollectorRegistry()
        self.requests = Counter("skimrt_requests", "Requests by path and status.", ["path", "status"], registry=to)
        self.latency = Histogram(
            "skimrt_request_seconds", "From a request to its answer.", ["path"], buckets=_SECONDS, registry=to
        )
        self.waiting = Gauge("skimrt_queue_texts", "Texts that wait.", multiprocess_mode="livesum", registry=to)
        self._texts = Counter("skimrt_texts", "Texts by what came of them.", ["outcome"], registry=to)
        self._tokens = Counter("skimrt_tokens", "Tokens of answered texts.", registry=to)
        self._kept = Counter("skimrt_tokens_kept", "Tokens alive at the end of a stage.", ["stage"], registry=to)
        self._wait = Histogram("skimrt_queue_seconds", "Seconds of a text in the queue.", buckets=_SECONDS, registry=to)
        self._call = Histogram("skimrt_call_seconds", "Seconds of a call of the runner.", buckets=_SECONDS, registry=to)
        self._call_texts = Histogram("skimrt_call_texts", "Texts that share a call.", buckets=_TEXTS, registry=to)

    def observe(self, call: Call) -> None:
        """Counts a call of the runner."""
        self._call.observe(call.seconds)
        self._call_texts.observe(len(call.answers))
        for waited in call.waited:
            self._wait.observe(waited)
        answered = [answer for answer in call.answers if not isinstance(answer, SkimError)]
        self._texts.labels("answered").inc(len(answered))
        self._texts.labels("refused").inc(len(call.answers) - len(answered))
        results = [result for windows in answered for result in windows]
        self._tokens.inc(sum(result.length for result in results))
        for result in results:
            for stage, alive in enumerate(result.survivors):
                self._kept.labels(str(stage)).inc(len(alive))

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        if SHARED not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)
