"""python -m pipeline.skim: makes an artifact of your own fine-tuned model: trains, builds, checks and reports."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.importing import importing, program

with importing(__name__, "skimrt[train]"):
    from rich.console import Console

    from calib.data import Data, examples_digest, has_labels, read_data, relabelled, splits_of
    from calib.held_out import hold_out, write_rows
    from calib.metric import METRICS
    from calib.texts import FEWEST
    from engines.artifact import Artifact
    from engines.errors import GateError, InputError
    from engines.manifest import BENCH_NAME
    from engines.runner import Runner
    from engines.writing import locked, write_whole
    from pipeline import build, parity, train
    from pipeline.builder.dense import DenseModel
    from pipeline.builder.measure import Timing, speedups
    from pipeline.cli import add_column_flags, columns_of, main_of
    from pipeline.model.checkpoint import checkpoint_digest, read_config
    from pipeline.model.config import CheckpointConfig
    from pipeline.report.artifact import write_artifact_report
    from pipeline.training.resume import RECORD

_METHODS = ("ltp", "transkimmer")
_SETTINGS, _PARITY = "skim.json", "parity.json"
_PARTS = ("train", "dev", "test")
_OF_THE_BUILD = {"--max-drop", "--precision", "--buckets"}
"""Settings that a trained model does not depend on: a build that failed is tried again with others."""


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
    p.add_argument("--method", choices=_METHODS, default="ltp", help="how it learns to skip tokens (default ltp)")
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


@dataclass(frozen=True)
class Skim:
    """One run: what was asked for, where its work lies, and the seconds of each step that it took."""

    args: argparse.Namespace
    config: CheckpointConfig
    work: Path
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        """Where the trained checkpoint is written."""
        return self.work / "checkpoint"

    def part(self, name: str) -> Path:
        """The file of one of the three sets."""
        return self.work / f"{name}.jsonl"

    def say(self, line: str) -> None:
        """Prints a line as it is."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def run(args: argparse.Namespace) -> int:
    """Takes all steps that are not done yet, and says what came of them."""
    config = read_config(args.model)
    if config.pruner.method != "dense":
        raise InputError(f"{args.model}: expected a model that skips no tokens yet, found {config.pruner.method}")
    out = args.out.parent.resolve() / args.out.name
    skim = Skim(args, config, out.with_name(f"{out.name}-work"), Console(stderr=args.json))
    sets = _read_sets(args, config)
    if args.precision == "int8" and _calibration(sets) is None:
        raise InputError(f"--precision int8: expected at least {FEWEST} texts to train on; give more, or leave it out")
    settings = _settings(args, sets)
    _refuse_taken(out, skim)
    try:
        skim.work.mkdir(parents=True, exist_ok=True)
        with locked(skim.work / "skim", f"--out {args.out}", writer="run"):
            _claim(skim, settings)
            return _steps(skim, sets)
    except OSError as error:
        raise InputError(f"--out {args.out}: cannot be written: {error.strerror or error}") from None


def _steps(skim: Skim, sets: dict[str, Data]) -> int:
    for name in _PARTS:
        write_rows(skim.part(name), sets[name].examples)
    sizes = ", ".join(f"{len(sets[name].examples)} {name}" for name in _PARTS)
    skim.say(f"data       {sizes}; where no set is given, texts of every label are held out, the same in every run")
    _step(skim, 1, "train", (skim.checkpoint / RECORD).is_file(), lambda: _train(skim))
    _step(skim, 2, "build", _is_built(skim), lambda: _build(skim, sets))
    _step(skim, 3, "parity", _is_checked(skim), lambda: _parity(skim, sets))
    skim.console.rule("4/4 report")
    report = write_artifact_report(skim.args.out)
    return _conclude(skim, sets["test"], report)


def _step(skim: Skim, number: int, name: str, done: bool, take: Callable[[], None]) -> None:
    skim.console.rule(f"{number}/4 {name}{': done before' if done else ''}")
    if not done:
        started = time.monotonic()
        take()
        skim.seconds[name] = round(time.monotonic() - started, 1)


def _read_sets(args: argparse.Namespace, config: CheckpointConfig) -> dict[str, Data]:
    """The three sets, with labels as the model calls them. Raises InputError."""
    columns = columns_of(args)

    def read(name: str, split: Any) -> Data:
        return read_data(name, split, columns=columns, unlabelled=args.label is None)

    sets = {"train": read(args.data, "train")}
    for name, given in (("test", args.test_data), ("dev", args.dev_data)):
        if given is not None or name in splits_of(args.data):
            sets[name] = read(given or args.data, name)
            continue
        rest, held = hold_out(sets["train"].examples, config.head.kind)
        if not held:
            raise InputError(f"{args.data}: too few texts to hold some out, found {len(rest)}; give more of them")
        sets["train"], sets[name] = Data(args.data, rest), Data(args.data, held)
    labels = config.head.labels
    return {name: Data(data.name, relabelled(data.examples, labels)[0]) for name, data in sets.items()}


def _calibration(sets: dict[str, Data]) -> str | None:
    """The set that costs and INT8's ranges are measured on: the dev texts, or those to train on if they are few."""
    return next((name for name in ("dev", "train") if len(sets[name].examples) >= FEWEST), None)


def _settings(args: argparse.Namespace, sets: dict[str, Data]) -> dict[str, str]:
    """What decides the outcome, by what a user calls it."""
    free = ("model", "out", "json", "threads", "data", "dev_data", "test_data", "label", "text", "text_b")
    options = {f"--{name.replace('_', '-')}": str(v) for name, v in vars(args).items() if name not in free}
    texts = hashlib.sha256("".join(examples_digest(sets[name].examples) for name in _PARTS).encode())
    return {**options, "the content of the model": checkpoint_digest(args.model), "the texts": texts.hexdigest()}


def _claim(skim: Skim, settings: dict[str, str]) -> None:
    """Takes the directory of the work; what another run has left there is kept."""
    path = skim.work / _SETTINGS
    trained = skim.checkpoint.is_dir() and any(skim.checkpoint.iterdir())
    if path.is_file() and trained:
        found = json.loads(path.read_text("utf-8"))
        decided = {**settings, **found}.keys() - (set() if _is_built(skim) else _OF_THE_BUILD)
        if other := sorted(name for name in decided if settings.get(name) != found.get(name)):
            raise InputError(
                f"{skim.work}: it holds the work of a run with another {', '.join(other)}; give the same command to go "
                "on with it, choose another --out, or remove it"
            )
    write_whole(path, (json.dumps(settings, indent=1) + "\n").encode())


def _refuse_taken(out: Path, skim: Skim) -> None:
    """Raises InputError now, not behind an hour of training, where the artifact could not be published."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"--out {skim.args.out}: expected a directory or nothing, found a file or a link")
    if out.is_dir() and any(out.iterdir()) and not _is_built(skim):
        raise InputError(f"--out {skim.args.out}: it holds something else already; choose another directory")


def _is_built(skim: Skim) -> bool:
    """Whether the artifact is there, of the checkpoint of this very work."""
    try:
        manifest = Artifact.open(skim.args.out, verify=False).manifest
        return manifest.checkpoint.sha256 == checkpoint_digest(skim.checkpoint)
    except InputError:
        return False


def _train(skim: Skim) -> None:
    args = skim.args
    layers = args.decide_at or [early_layer(skim.config)]
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
    args, calibration = skim.args, _calibration(sets)
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
    write_whole(skim.work / _PARITY, (json.dumps({"manifest": _manifest_digest(skim)}) + "\n").encode())


def _is_checked(skim: Skim) -> bool:
    path = skim.work / _PARITY
    return path.is_file() and _is_built(skim) and json.loads(path.read_text())["manifest"] == _manifest_digest(skim)


def _manifest_digest(skim: Skim) -> str:
    return hashlib.sha256((skim.args.out / "manifest.json").read_bytes()).hexdigest()


def _verb(skim: Skim, verb: Any, flags: list[object]) -> int:
    """Runs another verb, and shows the command that does the same alone."""
    words = [str(word) for word in flags]
    skim.say(f"python -m pipeline.{verb.__name__.rpartition('.')[2]} {shlex.join(words)}")
    with redirect_stdout(sys.stderr) if skim.args.json else nullcontext():
        return verb.run(verb.parser().parse_args(words))


def _given(flags: dict[str, object]) -> list[object]:
    return [word for name, value in flags.items() if value is not None for word in (name, value)]


def early_layer(config: CheckpointConfig) -> int:
    """The layer that decides where none is named: one sharp, early decision turns most of its FLOPs into time.

    The first quarter of the layers has seen the text; LTP reads attention, which must be global there.
    """
    wanted = config.encoder.layers // 6
    fit = [layer for layer in range(config.encoder.layers) if layer not in config.encoder.local_layers]
    return min(fit, key=lambda layer: abs(layer - wanted))


def _conclude(skim: Skim, test: Data, report: Path) -> int:
    """Prints where the artifact is, what it costs and gains, and what to do next."""
    args, manifest = skim.args, Artifact.open(skim.args.out, verify=False).manifest
    bench = json.loads((args.out / BENCH_NAME).read_text("utf-8"))
    figures = next(gate.figures for gate in manifest.gates if gate.name == "task metric")
    found = {"artifact": str(args.out), "report": str(report), "flops_ratio": bench["flops_ratio"]}
    found["speedup"] = speedups([Timing(**timing) for timing in bench["timings"]], "pruned", "dense")
    found |= {name: figures[name] for name in ("metric", "dense_metric", "drop_points") if name in figures}
    head = manifest.head
    found |= {"metric_name": METRICS[head.kind], "seconds": skim.seconds}
    if not has_labels(test.examples) and (head.kind == "classification" or head.one_value):
        found["agreement"] = _agreement(skim, test)
    if args.json:
        print(json.dumps(found))
        return 0
    skim.say(f"\nartifact   {args.out}\nreport     {report}")
    if "drop_points" in found:
        lost = f"the model itself {figures['dense_metric']:.4f}: {figures['drop_points']:.2f} points less"
        skim.say(f"{METRICS[head.kind]:<10} {found['metric']:.4f} on {len(test.examples)} held-out texts, {lost}")
    if "agreement" in found:
        skim.say(f"agreement  {found['agreement']:.4f} of {len(test.examples)} held-out texts get the model's answer")
    for batch, ratio in found["speedup"].items():
        skim.say(
            f"speed      batch {batch}: {ratio:.2f} times the model's; {found['flops_ratio']:.2f} times fewer FLOPs"
        )
    if skim.seconds:
        took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in skim.seconds.items())
        skim.say(f"took       {took}")
    skim.say(f"next       {Path(sys.executable).name} -m pipeline.run {shlex.quote(str(args.out))} --text '...'")
    return 0


def _agreement(skim: Skim, test: Data) -> float:
    """The model's metric where the artifact's answers are the labels: the share of texts on which both agree."""
    answers = Runner(skim.args.out, truncate=True, threads=skim.args.threads)(e.content for e in test.examples)
    labels = [answer.label if answer.label is not None else str(answer.logits[0]) for answer in answers]
    examples = [replace(e, label=str(label)) for e, label in zip(test.examples, labels, strict=True)]
    return DenseModel(skim.args.model, flag="MODEL").metric(examples)


if __name__ == "__main__":
    main_of(parser, run)
