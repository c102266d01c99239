"""python -m pipeline.skim: makes an artifact of your own fine-tuned model: trains, builds, checks and reports."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from pipeline.importing import importing, program

with importing(__name__, "skimrt[train]"):
    from rich.console import Console

    from calib.data import Data
    from calib.held_out import write_rows
    from calib.texts import FEWEST
    from engines.errors import GateError, InputError
    from engines.writing import locked
    from pipeline import build, parity, train
    from pipeline.cli import add_column_flags, columns_of, main_of
    from pipeline.model.checkpoint import read_config
    from pipeline.report.artifact import write_artifact_report
    from pipeline.skim.sets import PARTS, calibration_of, read_sets
    from pipeline.skim.summary import conclude
    from pipeline.skim.work import Skim
    from pipeline.training.suited import early_layer, learned_method

_METHODS = ("ltp", "transkimmer")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog=program("skim"),
        description="Takes a fine-tuned Hugging Face model and texts like those that it will see, teaches it to skip "
        "tokens with itself as the teacher, builds an artifact, checks it against PyTorch and writes a report. The "
        "steps are those of train, build, parity and report. An interrupted run goes on where it stopped when the same "
        "command is given again.",
        epilog="""\
example:
  python -m pipeline.skim my-classifier --data mine.jsonl --out artifact

It writes OUT, the artifact; OUT.report.html; OUT-dense, the model as it was, to compare with; and OUT-work with the
sets (train.jsonl, dev.jsonl, test.jsonl) and the checkpoint. Texts without labels will do: the model's own answers
take their place, and how often both agree is told instead of the accuracy.

exit codes: 0 done, 2 bad usage or input, 3 a check failed and nothing is published, 4 something is not installed""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("model", type=Path, help="directory of a fine-tuned Hugging Face model, or a dense checkpoint")
    p.add_argument("--data", required=True, help="texts to train on: a named set or a file, with or without labels")
    p.add_argument("--dev-data", help="texts for early stopping (default: a tenth of --data is held out)")
    p.add_argument("--test-data", help="texts for the checks and the accuracy (default: another tenth)")
    add_column_flags(p)
    p.add_argument("--out", type=Path, default=Path("artifact"), help="directory of the artifact (default artifact)")
    p.add_argument(
        "--method",
        choices=_METHODS,
        help="how it learns to skip tokens (default ltp; transkimmer for a head that answers for every token)",
    )
    p.add_argument("--flops-ratio", type=float, default=2.0, help="dense over pruned FLOPs to reach (default 2)")
    p.add_argument("--max-drop", type=float, default=1.0, help="points of accuracy that may be lost (default 1)")
    p.add_argument("--decide-at", type=int, nargs="+", help="layers that drop tokens (default: one early layer)")
    p.add_argument("--epochs", type=float, nargs="+", default=[1.0], help="epochs of each phase (default 1)")
    p.add_argument("--max-length", type=int, help="tokens per text (default: the model's)")
    p.add_argument(
        "--precision",
        choices=["fp32", "auto", "bf16", "int8"],
        default="fp32",
        help="of the engines; auto takes the fastest that passes the checks (default fp32)",
    )
    p.add_argument("--buckets", help="shapes to compile, such as 1x128,8x128 (default: as the planner finds best)")
    p.add_argument("--threads", type=int, help="CPU threads")
    p.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    p.add_argument("--json", action="store_true", help="print the result as JSON")
    return p


def run(args: argparse.Namespace) -> int:
    """Takes all steps that are not done yet, and says what came of them."""
    config = read_config(args.model)
    if config.pruner.method != "dense":
        raise InputError(f"{args.model}: expected a model that skips no tokens yet, found {config.pruner.method}")
    args.method = args.method or learned_method(config.head)
    out = args.out.parent.resolve() / args.out.name
    skim = Skim(args, config, out.with_name(f"{out.name}-work"), Console(stderr=args.json))
    sets = read_sets(args, columns_of(args), config)
    if args.precision == "int8" and calibration_of(sets) is None:
        raise InputError(f"--precision int8: expected at least {FEWEST} texts to train on; give more, or leave it out")
    skim.refuse_taken()
    try:
        skim.work.mkdir(parents=True, exist_ok=True)
        with locked(skim.work / "skim", f"--out {args.out}", writer="run"):
            skim.claim(sets)
            return _steps(skim, sets)
    except OSError as error:
        raise InputError(f"--out {args.out}: cannot be written: {error.strerror or error}") from None


def _steps(skim: Skim, sets: dict[str, Data]) -> int:
    for name in PARTS:
        write_rows(skim.part(name), sets[name].examples)
    sizes = ", ".join(f"{len(sets[name].examples)} {name}" for name in PARTS)
    skim.say(f"data       {sizes}; where no set is given, texts of every label are held out, the same in every run")
    _step(skim, 1, "train", skim.is_trained, lambda: _train(skim))
    _step(skim, 2, "build", skim.is_built, lambda: _build(skim, sets))
    _step(skim, 3, "parity", skim.is_checked, lambda: _parity(skim, sets))
    skim.console.rule("4/4 report")
    report = write_artifact_report(skim.args.out)
    conclude(skim, sets["test"], report)
    return 0


def _step(skim: Skim, number: int, name: str, done: bool, take: Callable[[], None]) -> None:
    skim.console.rule(f"{number}/4 {name}{': done before' if done else ''}")
    if not done:
        started = time.monotonic()
        take()
        skim.seconds[name] = round(time.monotonic() - started, 1)


def _train(skim: Skim) -> None:
    args = skim.args
    layers = args.decide_at or [early_layer(skim.config, args.method)]
    flags = [
        *("--method", args.method, "--init", args.model, "--out", skim.checkpoint, "--seed", args.seed),
        *("--data", skim.part("train"), "--dev-data", skim.part("dev"), "--flops-ratio", args.flops_ratio),
        *("--decide-at", *layers, "--epochs", *args.epochs),
    ]
    if args.method == "ltp" and len(layers) == 1:
        flags += ["--phases", "hard"]  # the one threshold follows from the ratio: nothing of it has to be learned
    optional = {"--max-length": args.max_length, "--threads": args.threads}
    _verb(skim, train, [*flags, *_given(optional)])


def _build(skim: Skim, sets: dict[str, Data]) -> None:
    args, calibration = skim.args, calibration_of(sets)
    flags = [
        *("--checkpoint", skim.checkpoint, "--dense", args.model, "--out", args.out, "--max-drop", args.max_drop),
        *("--data", skim.part("test"), "--precision", args.precision, "--metric-samples", len(sets["test"].examples)),
    ]
    optional = {"--calibration": calibration and skim.part(calibration), "--buckets": args.buckets}
    try:
        _verb(skim, build, [*flags, *_given({**optional, "--threads": args.threads})])
    except GateError as error:
        raise GateError(
            f"{error}\nwhere the model loses too much: train it longer (--epochs), on more texts or for a smaller "
            "--flops-ratio, with another --out; or allow more with --max-drop, for which nothing is trained again"
        ) from None


def _parity(skim: Skim, sets: dict[str, Data]) -> None:
    args, count = skim.args, len(sets["test"].examples)
    flags = ["--data", skim.part("test"), "--samples", count, "--dense", args.model, "--max-drop", args.max_drop]
    if _verb(skim, parity, [args.out, *flags, *_given({"--threads": args.threads})]):
        raise GateError(f"{args.out}: parity does not hold; the lines above say where")
    skim.mark_checked()


def _verb(skim: Skim, verb: Any, flags: list[object]) -> int:
    """Runs another verb, and shows the command that does the same alone."""
    words = [str(word) for word in flags]
    skim.say(f"python -m pipeline.{verb.__name__.rpartition('.')[2]} {shlex.join(words)}")
    with redirect_stdout(sys.stderr) if skim.args.json else nullcontext():
        return verb.run(verb.parser().parse_args(words))


def _given(flags: dict[str, object]) -> list[object]:
    return [word for name, value in flags.items() if value is not None for word in (name, value)]


if __name__ == "__main__":
    main_of(parser, run)
