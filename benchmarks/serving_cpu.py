"""An artifact over HTTP: requests a second and their latency, by clients and by how long a text waits for company.

python -m benchmarks.serving_cpu demo/output/dense demo/output/ltp --json benchmarks/results/serving-cpu.json
python -m benchmarks.serving_cpu --table benchmarks/results/serving-cpu.json
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.records import add_record_flags, printed, require_json, write_record
from calib.data import read_examples
from engines.errors import InputError
from engines.machine import machine_record
from engines.runner import Runner
from pipeline.cli import main_of
from pipeline.report.markdown import table

CLIENTS, WAITS = (1, 4, 16), (0.0, 2.0, 10.0)
_IDLE = 5
"""Seconds that a service may take to end."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.serving_cpu", description=(__doc__ or "").splitlines()[0])
    p.add_argument("artifacts", type=Path, nargs="*", help="such as a dense one and a pruned one of the same model")
    p.add_argument("--reviews", type=int, default=192, help="requests of a round, one review each (default 192)")
    p.add_argument("--rounds", type=int, default=3, help="rounds, in each of which all take turns (default 3)")
    add_record_flags(p)
    return p


def run(args: argparse.Namespace) -> int:
    """Measures every artifact in turns, writes the record and prints its table."""
    if printed(args, table_of):
        return 0
    require_json(args)
    if not args.artifacts:
        raise InputError("expected artifacts to serve, found none")
    texts = [str(example.text) for example in read_examples("movie-reviews", "test")[: args.reviews]]
    rows: dict[tuple, list[dict]] = {}
    for _ in range(args.rounds):
        for artifact in args.artifacts:
            rows.setdefault((artifact.name, "in one process", len(texts)), []).append(alone(artifact, texts))
            for wait in WAITS:
                with served(artifact, wait) as address:
                    for clients in CLIENTS:
                        rows.setdefault((artifact.name, wait, clients), []).append(asked(address, texts, clients))
    record = {**machine_record(), "texts": len(texts), "rounds": args.rounds, "rows": list(map(_row, rows.items()))}
    write_record(args.json, record)
    print(table_of(record))
    return 0


def alone(artifact: Path, texts: Sequence[str]) -> dict[str, float]:
    """The runner itself on all texts at once: what a service cannot be faster than."""
    runner = Runner(artifact, truncate=True)
    runner.warm_up()
    runner(texts[:8])
    started = time.perf_counter()
    runner(texts)
    return {"per_second": len(texts) / (time.perf_counter() - started)}


@contextmanager
def served(artifact: Path, wait: float) -> Iterator[tuple[str, int]]:
    """A service in a process of its own; gives its address. wait: milliseconds."""
    command = [sys.executable, "-m", "pipeline.serve", str(artifact), "--port", "0", "--json", "--truncate"]
    command += ["--max-wait-ms", str(wait)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise InputError(f"{artifact}: its service ended with {process.wait()} before it listened")
            url = urlsplit(json.loads(line)["url"])
            assert url.hostname is not None and url.port is not None
            yield url.hostname, url.port
        finally:
            process.terminate()
            process.wait(_IDLE)


def asked(address: tuple[str, int], texts: Sequence[str], clients: int) -> dict[str, float]:
    """Clients that each send their share of the texts, one after another, over a connection that stays open."""
    shares = [texts[number::clients] for number in range(clients)]
    _client(address, texts[:8])
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seconds = [one for share in pool.map(lambda share: _client(address, share), shares) for one in share]
    whole = time.perf_counter() - started
    cuts = statistics.quantiles(seconds, n=20)
    return {"per_second": len(texts) / whole, "median_ms": 1e3 * cuts[9], "p95_ms": 1e3 * cuts[18]}


def _client(address: tuple[str, int], texts: Sequence[str]) -> list[float]:
    """Seconds of every request."""
    connection, seconds = http.client.HTTPConnection(*address), []
    for text in texts:
        started = time.perf_counter()
        connection.request("POST", "/predict", json.dumps({"inputs": [text]}), {"content-type": "application/json"})
        answer = connection.getresponse()
        body = json.loads(answer.read())
        if answer.status != 200 or body["errors"]:
            raise InputError(f"a request was refused with {answer.status}: {body}")
        seconds.append(time.perf_counter() - started)
    connection.close()
    return seconds


def _row(item: tuple[tuple, list[dict]]) -> dict:
    """The medians of the rounds."""
    (artifact, wait, clients), rounds = item
    figures = {name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]}
    return {"artifact": artifact, "max_wait_ms": wait, "clients": clients, **figures}


def table_of(record: dict) -> str:
    """Requests a second, and latencies, as Markdown."""
    rows = [
        [
            row["artifact"],
            f"{row['max_wait_ms']:g} ms" if "median_ms" in row else "no service",
            str(row["clients"]) if "median_ms" in row else "–",
            f"{row['per_second']:.0f}",
            *(f"{row[name]:.1f}" if name in row else "–" for name in ("median_ms", "p95_ms")),
        ]
        for row in record["rows"]
    ]
    machine = record["machine"]
    note = (
        f"Requests of one review each over a connection that stays open; {record['texts']} a round, medians of "
        f"{record['rounds']} rounds in turns. Clients and service share {machine['cpus']} cores of "
        f"{machine['processor']}. No service: the runner, given all texts at once."
    )
    head = ["artifact", "--max-wait-ms", "clients", "texts a second", "median, ms", "95th percentile, ms"]
    return table(head, rows, note, names=2)


if __name__ == "__main__":
    main_of(parser, run)
