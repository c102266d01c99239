"""What all verbs share: running with the exit codes of the command line."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from engines.artifact import Gate
from engines.errors import SkimError


def main_of(parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], int]) -> NoReturn:
    """Parses the command line, runs the verb and exits: 0 done, 2 usage or input, 3 gate, 4 target, 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        code = run(parser().parse_args())
    except SkimError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def print_gates(gates: Sequence[Gate], console: Console) -> None:
    """One line per gate: status, name, and the reason or the figures."""
    for gate in gates:
        figures = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in gate.figures.items())
        line = f"{gate.status:<10} {gate.name}: {gate.reason or figures}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def progress_bars(console: Console) -> Progress:
    """The live bars of a verb: a step per line, its count and its time."""
    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)
