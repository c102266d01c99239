"""What all verbs share: running with the exit codes of the command line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TextIO

from rich.console import Console
from rich.table import Table

from engines.artifact import Gate
from engines.errors import InputError, SkimError
from pipeline.importing import interruptible


@interruptible()
def main_of(parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], int]) -> NoReturn:
    """Parses the command line, runs the verb and exits: 0 done, 2 usage or input, 3 gate, 4 target, 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        code = run(parser().parse_args())
        if sys.stdout is not None:  # a verb that writes files alone can do without
            with standard_output():
                pass  # what is still buffered
    except BrokenPipeError:  # whoever read has enough, as `head` does
        _discard_output()
        code = 0
    except SkimError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Where answers are printed; raises InputError when it is closed or does not take them, as on a full disk."""
    if sys.stdout is None:
        raise InputError("standard output: expected it to be open, found it closed")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise InputError(f"standard output: cannot be written: {error.strerror or error}") from None


def _discard_output() -> None:
    """Redirects output to nothing, so that not even Python's last flush writes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_gates(gates: Sequence[Gate], console: Console) -> None:
    """One line per gate: status, name, and the reason or the figures."""
    for gate in gates:
        line = f"{gate.status:<10} {gate.name}: {gate.reason or figures_line(gate)}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def not_checked(gates: Sequence[Gate]) -> str:
    """The gates that are SKIPPED, which is not PASSED, for the last line of a verb."""
    return ", ".join(gate.name for gate in gates if gate.status == "SKIPPED")


def figures_line(gate: Gate) -> str:
    """Returns the figures of a gate as text."""
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in gate.figures.items())


def plain_table(title: str, *columns: str) -> Table:
    """A table without lines; of two columns without a header unless their names are given."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=bool(columns), box=None)
    for column in columns or ("", ""):
        table.add_column(column, overflow="fold", header_style="dim")
    return table
