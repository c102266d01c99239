"""An artifact over HTTP, with one client and with many, beside the runner alone.

python -m benchmarks.serving_cpu demo/output/ltp [--clients 1 16] [--waits 0 2 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from calib.data import read_examples
from engines.machine import machine_record
from engines.runner import Runner
from engines.tokenization import Text
from pipeline.cli import main_of


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.serving_cpu", description=(__doc__ or "").splitlines()[0])
    p.add_argument("artifact", type=Path, help="artifact that is served")
    p.add_argument("--reviews", type=int, default=256, help="texts that are asked, one a request (default 256)")
    p.add_argument("--clients", type=int, nargs="+", default=[1, 16], help="that ask at a time (default 1 16)")
    p.add_argument("--waits", type=float, nargs="+", default=[0, 2, 5], help="milliseconds of --max-wait-ms")
    p.add_argument("--threads", type=int, help="CPU threads of the engines")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return p


def run(args: argparse.Namespace) -> int:
    """Prints, and writes, texts a second and latencies of every number of clients and wait."""
    texts = [example.content for example in read_examples("movie-reviews", "test")[: args.reviews]]
    rows = [_alone(args, texts, batch) for batch in (1, None)]
    for wait in args.waits:
        with _served(args, wait) as (host, port):
            _asked(host, port, texts[:32], 4)
            rows += [
                {"clients": clients, "wait_ms": wait, **_asked(host, port, texts, clients)} for clients in args.clients
            ]
    for row in rows:
        print(
            ", ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
            )
        )
    if args.json is not None:
        record = {**machine_record(), "threads": args.threads, "reviews": len(texts), "rows": rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return 0


def _alone(args: argparse.Namespace, texts: Sequence[Text], batch: int | None) -> dict:
    """The runner without a service: a text at a time, or all at once."""
    runner = Runner(args.artifact, truncate=True, max_batch=batch, threads=args.threads)
    runner.warm_up()
    runner(texts[:32])
    started = time.perf_counter()
    runner(texts)
    return {
        "runner": "all at once" if batch is None else "one by one",
        "texts_per_second": len(texts) / (time.perf_counter() - started),
    }


@contextmanager
def _served(args: argparse.Namespace, wait: float) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "pipeline.serve", args.artifact, "--port", 0, "--truncate", "--json"]
    command += ["--max-wait-ms", wait, *([] if args.threads is None else ["--threads", args.threads])]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = urlsplit(json.loads(process.stdout.readline())["url"])
            yield str(url.hostname), int(url.port or 0)
        finally:
            process.terminate()


def _asked(host: str, port: int, texts: Sequence[Text], clients: int) -> dict:
    """Every text as a request, by so many clients that each keep a connection."""

    def ask(own: Sequence[Text]) -> list[float]:
        connection, seconds = HTTPConnection(host, port), []
        for text in own:
            started = time.perf_counter()
            connection.request("POST", "/predict", json.dumps({"inputs": text}), {"content-type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200 and json.loads(response.read())["errors"] == 0
            seconds.append(time.perf_counter() - started)
        connection.close()
        return seconds

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = [one for seconds in pool.map(ask, (texts[n::clients] for n in range(clients))) for one in seconds]
    total = time.perf_counter() - started
    latency = {"median_ms": 1e3 * statistics.median(found), "p95_ms": 1e3 * float(np.percentile(found, 95))}
    return {"texts_per_second": len(texts) / total, **latency}


if __name__ == "__main__":
    main_of(parser, run)
