"""python -m pipeline.export_triton: writes a model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipeline.importing import importing, program

with importing(__name__, "skimrt"):
    from engines.artifact import Artifact
    from engines.errors import InputError
    from pipeline.cli import main_of
    from pipeline.export_triton.repository import TritonModel, outputs_of


def parser() -> argparse.ArgumentParser:
    """The command line."""
    default = TritonModel("model")
    p = argparse.ArgumentParser(
        prog=program("export_triton"),
        description="Writes an artifact into a model repository of Triton: a model of its Python backend that calls "
        "SkimRT's runner, with Triton's dynamic batching. Inputs: TEXT and perhaps TEXT_PAIR, strings [texts, 1]. "
        "Outputs: what the model's head gives (LABEL, SCORE, LOGITS, EMBEDDING), RECORD with the JSON that "
        "pipeline.run prints, TOKENS, and RETENTION, the tokens kept at the end of every stage.",
        epilog="exit codes: 0 written, 2 no artifact, a damaged one, or the repository cannot be written",
    )
    p.add_argument("artifact", type=Path, help="directory that pipeline.build wrote")
    p.add_argument(
        "repository", metavar="REPO", type=Path, help="model repository; others' models in it are left alone"
    )
    p.add_argument("--name", help="the model's name (default: the artifact's)")
    p.add_argument("--link", action="store_true", help="link to the artifact instead of copying it")
    p.add_argument("--truncate", action="store_true", help="cut texts that are too long for the model; else errors")
    p.add_argument("--threads", type=int, help="CPU threads of an instance (default: the library's choice)")
    p.add_argument("--instances", type=int, default=default.instances, help="runners (default %(default)s)")
    p.add_argument("--max-batch", type=int, default=default.batch, help="texts of a call (default %(default)s)")
    p.add_argument("--queue", type=int, default=default.queue, help="requests that may wait (default %(default)s)")
    wait = 1000 * default.max_wait
    p.add_argument("--max-wait-ms", type=float, default=wait, help=f"how long they wait for others (default {wait:g})")
    p.add_argument("--json", action="store_true", help="print the result as JSON")
    return p


def run(args: argparse.Namespace) -> int:
    """Writes the model and says where it is."""
    artifact = Artifact.open(args.artifact)
    if not artifact.manifest.engines:
        raise InputError(f"artifact {args.artifact}: expected engines, found none; build them where it will run")
    model = TritonModel(
        name=args.name or args.artifact.resolve().name,
        batch=args.max_batch,
        queue=args.queue,
        max_wait=args.max_wait_ms / 1000,
        instances=args.instances,
        threads=args.threads,
        truncate=args.truncate,
    )
    folder = model.write(artifact, args.repository, args.link)
    outputs = sorted(outputs_of(artifact.manifest))
    if args.json:
        print(json.dumps({"model": str(folder), "outputs": outputs}))
    else:
        print(f"model: {folder}, which gives {', '.join(outputs)}; its README.md has the environment that it needs")
    return 0


if __name__ == "__main__":
    main_of(parser, run)
