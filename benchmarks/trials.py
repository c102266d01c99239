"""python -m benchmarks.trials: the tables of `make trials` and its mutants; --write puts them into the docs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from engines.writing import write_whole
from pipeline.cli import main_of
from pipeline.report.markdown import table

_ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = _ROOT / "benchmarks" / "results", _ROOT / "docs" / "reliability.md"
MADE_BY = "made by `python -m benchmarks.trials --write`, checked by the tests"


def trials_table() -> str:
    """The counts of the committed trials, of the fixed seed and of a fresh one."""
    found: dict[str, dict[str, dict[str, int]]] = json.loads((RESULTS / "trials.json").read_text("utf-8"))
    rows = [
        [kind, str(counts["seed"]), str(counts["trials"]), _results(counts), str(counts["wrong"])]
        for kind, runs in found.items()
        for counts in runs.values()
    ]
    note = (
        "Wrong would be a traceback, an exit code that --help does not name, a hang, an error of several lines for one "
        "byte, or an answer that changed and that parity passes."
    )
    return table(["inputs", "seed", "trials", "what they came to", "wrong"], rows, note, names=4)


def mutants_table() -> str:
    """The mechanisms that were taken out of the sources, and the tests that failed then."""
    found = json.loads((RESULTS / "mutants.json").read_text("utf-8"))
    rows = [[str(mutant["row"]), mutant["lost"], f"`{mutant['test'].partition('::')[2]}`"] for mutant in found]
    note = "Rows are those of tests/FAULTS.md. Each test passes, and fails where the mechanism is taken out."
    return table(["row", "without", "this test fails"], rows, note, names=3)


def _results(counts: Mapping[str, int]) -> str:
    told = {name.removeprefix("pipeline."): n for name, n in counts.items() if name not in ("seed", "trials", "wrong")}
    return "; ".join(f"{name} {n}" for name, n in told.items())


def with_tables(page: str) -> str:
    """A page with the tables of the committed results in their places."""
    for name, content in (("trials", trials_table()), ("mutants", mutants_table())):
        before, begin, rest = page.partition(f"<!-- {name} table: begin")
        _, end, after = rest.partition(f"<!-- {name} table: end -->")
        page = f"{before}{begin} ({MADE_BY}) -->\n{content}\n{end}{after}"
    return page


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.trials", description="Prints the tables of make trials.")
    p.add_argument("--write", action="store_true", help=f"put them into {PAGE.relative_to(_ROOT)} instead")
    return p


def run(args: argparse.Namespace) -> int:
    """Prints or writes the tables."""
    if args.write:
        write_whole(PAGE, with_tables(PAGE.read_text("utf-8")).encode())
    else:
        print(f"{trials_table()}\n\n{mutants_table()}")
    return 0


if __name__ == "__main__":
    main_of(parser, run)
