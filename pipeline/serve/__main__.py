"""python -m pipeline.serve: answers texts over HTTP with an artifact."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from pipeline.importing import importing, program

with importing(__name__, "skimrt[serve]"):
    from engines.artifact import Artifact
    from pipeline.cli import add_reading_flags, main_of, reading_of, standard_output
    from pipeline.serve.replicas import serve_replicas
    from pipeline.serve.server import listen, serve
    from pipeline.serve.settings import Settings

_EPILOG = """\
example:
  python -m pipeline.serve artifact --port 8000
  curl localhost:8000/predict -H 'content-type: application/json' -d '{"inputs": ["a film to remember"]}'

paths: POST /predict, /rerank, /embed, /v1/embeddings; GET /health, /ready, /info, /metrics, /openapi.json

exit codes: 0 ended by SIGTERM, with every request in flight answered, 2 bad usage or input, 4 this machine cannot run
the artifact"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    default = Settings(Path())
    p = argparse.ArgumentParser(
        prog=program("serve"),
        description="Serves an artifact that pipeline.build wrote over HTTP. Requests of several clients that arrive "
        "within a few milliseconds, or while an engine is busy, go through one call of the engines; every text gets "
        "the answer that it gets alone. Nothing is sent anywhere but answers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("artifact", type=Path, help="directory that pipeline.build wrote")
    p.add_argument("--host", default=default.host, help=f"address to listen on (default {default.host}: this machine)")
    p.add_argument("--port", type=int, default=default.port, help=f"0 takes a free one (default {default.port})")
    p.add_argument(
        "--replicas",
        type=int,
        default=default.replicas,
        help="processes that serve together, each with the engines and a share of the cores (default 1)",
    )
    p.add_argument("--target", default="auto", help="what runs the engines (default: the best that is built and runs)")
    p.add_argument("--provider", help="library that runs them: openvino or onnxruntime (default: the target's first)")
    p.add_argument("--threads", type=int, help="CPU threads (default: the library's choice)")
    p.add_argument("--truncate", action="store_true", help="cut texts that are too long for the model; else errors")
    add_reading_flags(p)
    limits = p.add_argument_group("gathering and limits")

    def number(flag: str, what: str, shown: float, kind: type = int) -> None:
        limits.add_argument(f"--{flag}", type=kind, default=shown, help=f"{what} (default {shown:g})")

    number("max-wait-ms", "milliseconds that a text at most waits for others", 1000 * default.max_wait, float)
    number("max-batch", "texts that go through one call", default.batch)
    number("max-texts", "texts of a request; 413 for more", default.texts)
    number("max-bytes", "bytes of a request; 413 for more", default.size)
    number("queue", "texts that may wait; 429 with Retry-After for more", default.queue)
    number("timeout", "seconds for a request; 503 for more", default.timeout, float)
    number("grace", "seconds for the requests in flight when the service ends", default.grace, float)
    p.add_argument("--json", action="store_true", help="print the line that says where it listens as JSON")
    return p


def run(args: argparse.Namespace) -> int:
    """Serves until a signal ends it."""
    settings = Settings(
        artifact=args.artifact,
        host=args.host,
        port=args.port,
        replicas=args.replicas,
        target=args.target,
        provider=args.provider,
        threads=args.threads,
        truncate=args.truncate,
        reading=reading_of(args),
        max_wait=args.max_wait_ms / 1000,
        batch=args.max_batch,
        texts=args.max_texts,
        queue=args.queue,
        size=args.max_bytes,
        timeout=args.timeout,
        grace=args.grace,
    )
    started = time.perf_counter()
    Artifact.open(args.artifact)  # also what this target does not read: damage is never only in one file
    with listen(settings.host, settings.port) as listener:
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

        def tell() -> None:
            seconds = time.perf_counter() - started
            said = {"url": url, "artifact": str(args.artifact), "seconds": round(seconds, 3)}
            with standard_output():
                print(json.dumps(said) if args.json else f"serving {args.artifact} on {url}, ready in {seconds:.1f} s")

        if settings.replicas > 1:
            return serve_replicas(settings, listener, tell)
        return serve(settings.runner(), settings, listener, tell)


if __name__ == "__main__":
    main_of(parser, run)
