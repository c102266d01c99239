"""What all verbs share: running with the exit codes of the command line."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, NoReturn, TextIO, get_args

from rich.console import Console, RenderableType
from rich.table import Table

from calib.row import Columns
from engines.allocator import keep_freed_memory
from engines.errors import InputError, SkimError
from engines.manifest import Gate
from engines.reading import PLAIN, Aggregation, Reading
from engines.version import __version__
from pipeline.importing import interruptible

BROKEN_PIPE, UNEXPECTED = 141, 70
"""Exit codes as a shell and sysexits.h have them."""
OF_EVERY_VERB = (
    "exit codes of every verb: 70 something unexpected, whose log is named; 129, 130, 143 ended by SIGHUP, Ctrl-C, "
    "SIGTERM; 141 whoever read the output has closed it"
)
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@interruptible()
def main_of(parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], int]) -> NoReturn:
    """Parses the command line, runs the verb and exits: 0 done, 2 usage or input, 3 gate, 4 target; OF_EVERY_VERB."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    _take_any_character()
    keep_freed_memory()
    try:
        p = parser()
        p.epilog = f"{p.epilog}\n\n{OF_EVERY_VERB}" if p.epilog else OF_EVERY_VERB
        code = run(p.parse_args())
        if sys.stdout is not None:  # a verb that writes files alone can do without
            with standard_output():
                pass  # what is still buffered
    except BrokenPipeError:  # whoever read has enough, as `head` does
        _discard_output()
        code = BROKEN_PIPE
    except SkimError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        code = error.exit_code
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # not only Exception: a library in Rust raises its panics as neither
        print(f"error: {printable(_unexpected(error))}", file=sys.stderr)
        code = UNEXPECTED
    sys.exit(code)


def _unexpected(error: BaseException) -> str:
    """One line about an error that nobody foresaw; its traceback is in a log file that the line names."""
    text = " ".join(str(error).split())
    line = f"unexpected {type(error).__name__}{': ' if text else ''}{text[:300]}"
    if isinstance(error, MemoryError):
        line = f"this machine's memory is not enough: {line}"
    try:
        handle, name = tempfile.mkstemp(prefix="skimrt-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"skimrt {__version__}, Python {sys.version}\n{shlex.join(sys.argv)}\n\n")
            log.writelines(traceback.format_exception(error))
    except OSError as refused:
        return f"{line}; its log cannot be written: {refused.strerror}"
    return f"{line}; please report it with {name}, which tells where it happened"


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey: control characters, but for line ends and tabs, as escapes."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _Printable(logging.Formatter):
    """Log lines that hold what others have written."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _take_any_character() -> None:
    """What the terminal's encoding lacks is written as an escape instead of ending the verb."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def takes_unicode(stream: TextIO | None) -> bool:
    """Whether every character can be written to a stream as it is."""
    return stream is None or (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"


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


def add_column_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds the flags that name the columns of data files."""
    for flag, what in (("label", "the label"), ("text", "the text"), ("text-b", "the second text of pairs")):
        name = flag.replace("-", "_")
        parser.add_argument(f"--{flag}", metavar="COLUMN", help=f"column or key of {what} in files (default {name})")


def columns_of(args: argparse.Namespace) -> Columns | None:
    """The columns that were named; None for the usual ones."""
    return Columns.given(args.label, args.text, args.text_b)


def add_reading_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what is made of the logits; `reading_of` reads them."""
    add = parser.add_argument_group("what is made of the logits, where the model's head leaves a choice").add_argument
    add("--aggregation", choices=get_args(Aggregation), help=f"of tagged tokens (default {PLAIN.aggregation})")
    add("--answers", type=int, default=PLAIN.answers, help=f"most answers to a question (default {PLAIN.answers})")
    add("--max-answer", type=int, default=PLAIN.max_answer, help=f"most tokens of one (default {PLAIN.max_answer})")
    add("--no-answer", action="store_true", default=None, help="a question may have no answer (default: the model's)")
    add("--stride", type=int, default=PLAIN.stride, help="tokens that windows of a long text share (default 128)")
    add("--threshold", type=float, help="least probability of a label of several (default: the model's, or 0.5)")


def reading_of(args: argparse.Namespace) -> Reading:
    """What the flags of `add_reading_flags` say. Raises InputError."""
    aggregation = args.aggregation or PLAIN.aggregation
    return Reading(aggregation, args.answers, args.max_answer, args.no_answer, args.threshold, args.stride)


def print_gates(gates: Sequence[Gate], console: Console) -> None:
    """One line per gate: status, name, and the reason or the figures."""
    for gate in gates:
        line = f"{gate.status:<10} {gate.name}: {gate.reason or figures_line(gate)}"
        console.print(printable(line), highlight=False, markup=False, soft_wrap=True)


def not_checked(gates: Sequence[Gate]) -> str:
    """The gates that are SKIPPED, which is not PASSED, for the last line of a verb."""
    return ", ".join(gate.name for gate in gates if gate.status == "SKIPPED")


def figures_line(gate: Gate) -> str:
    """Returns the figures of a gate as text."""
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in gate.figures.items())


class _PrintableTable(Table):
    """A table of what others have written."""

    def add_row(self, *cells: RenderableType | None, **more: Any) -> None:
        super().add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells), **more)


def plain_table(title: str, *columns: str) -> Table:
    """A table without lines; of two columns without a header unless their names are given."""
    table = _PrintableTable(
        title=printable(title), title_justify="left", title_style="bold", show_header=bool(columns), box=None
    )
    for column in columns or ("", ""):
        table.add_column(column, overflow="fold", header_style="dim")
    return table


def figures_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of names, on the left, and their figures."""
    table = _PrintableTable(title=printable(title))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table
