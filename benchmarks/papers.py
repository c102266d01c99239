"""The papers' tables: accuracy, FLOPs with and without padding, and time of both methods and two baselines.

python -m benchmarks.papers --data FOLDER --json benchmarks/results/papers.json
python -m benchmarks.papers --table benchmarks/results/papers.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.paper_runs import METHODS, PaperRuns
from benchmarks.paper_sets import SETS, missing
from benchmarks.paper_tables import tables_of
from benchmarks.records import add_record_flags, printed, require_json, write_record
from engines.errors import InputError
from engines.machine import machine_record
from pipeline.cli import main_of

UNFINISHED = 5
"""Exit code where --minutes ended it."""
SHORT = "sst2"
"""The set of the test of lengths."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.papers", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--data", type=Path, help="folder of sst2/, mrpc/ and qnli/; sets that are not there are SKIPPED")
    p.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="only these sets (default: all)")
    p.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="only these methods (default: all)")
    p.add_argument("--work", type=Path, default=Path("runs/papers"), help="directory of sets, models and artifacts")
    p.add_argument("--no-times", dest="times", action="store_false", help="build and time nothing")
    p.add_argument("--minutes", type=float, help="begin no step later than so many minutes from now; exit code 5 then")
    p.add_argument("--seed", type=int, default=0, help="seed of the trainings (default 0)")
    add_record_flags(p, more="; written behind every step, and steps that it has already are kept")
    return p


def run(args: argparse.Namespace) -> int:
    """Takes the steps that the record does not have yet; the record is whole behind each."""
    if printed(args, tables_of):
        return 0
    started = time.monotonic()
    require_json(args)
    same = {"seed": args.seed, "threads": os.environ.get("OMP_NUM_THREADS"), **machine_record()}
    record = json.loads(args.json.read_text("utf-8")) if args.json.is_file() else {**same, "skipped": {}, "found": {}}
    if other := sorted(name for name in same if record.get(name) != same[name]):
        raise InputError(f"--json {args.json}: it has figures of another {', '.join(other)}; name another file")
    for name in args.sets:
        record["skipped"].pop(name, None)
        if (reason := missing(name, args.data)) is not None:
            print(reason, flush=True)
            record["skipped"][name] = reason
    for key, step in steps(PaperRuns(args.data, args.work, args.seed, record["found"]), args):
        if key in record["found"]:
            continue
        if args.minutes is not None and time.monotonic() - started > 60 * args.minutes:
            return UNFINISHED
        record["found"][key] = step()
        print(key, json.dumps(record["found"][key]), flush=True)
        write_record(args.json, record)
    write_record(args.json, record)
    print(tables_of(record))
    return 0


def steps(runs: PaperRuns, args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict]]]:
    """The key of every step in the record, and the step, in an order in which each finds what it needs."""
    there = [name for name in args.sets if missing(name, args.data) is None]
    for name in there:
        yield f"{name}/dense", partial(runs.dense, name)
        yield f"{name}/padding", partial(runs.padding, name)
        for method in args.methods:
            yield f"{name}/{method}", partial(runs.trained, name, method)
            for ratio in SETS[name].ratios:
                yield f"{name}/{method}/{ratio:g}", partial(runs.point, name, method, ratio)
        for method in args.methods if args.times else ():
            yield f"{name}/artifact/dense", partial(runs.artifact, name, "dense")
            yield f"{name}/artifact/{method}", partial(runs.artifact, name, method)
            yield f"{name}/times/{method}", partial(runs.times, name, method)
    if SHORT in there:
        for method in ("dense", *args.methods):
            yield f"lengths/{method}", partial(runs.lengths, SHORT, method)


if __name__ == "__main__":
    main_of(parser, run)
