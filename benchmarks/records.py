"""The record of a benchmark, a JSON file: the flags that name one, its writing, and the table that a document shows.

A record names no path of the machine that it was written on: see `portable`.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable
from pathlib import Path

from engines.errors import InputError
from engines.writing import write_whole

ROOT = Path(__file__).resolve().parents[1]


def add_record_flags(p: argparse.ArgumentParser, more: str = "") -> None:
    """Adds --json and --table; more: what else --help says of the record."""
    p.add_argument("--json", type=Path, metavar="FILE", help=f"where the record is written{more}")
    p.add_argument("--table", type=Path, metavar="FILE", help="only print the table of a record")


def printed(args: argparse.Namespace, table_of: Callable[[dict], str]) -> bool:
    """Prints the table of the record that --table names; False without one."""
    if args.table is None:
        return False
    print(table_of(json.loads(args.table.read_text("utf-8"))))
    return True


def write_record(path: Path, record: dict) -> None:
    """Writes a record whole."""
    write_whole(path, (json.dumps(record, indent=1) + "\n").encode())


def require_json(args: argparse.Namespace) -> None:
    """Raises InputError without --json, for a script that runs for long and keeps its record as it goes."""
    if args.json is None:
        raise InputError("expected --json FILE, where the record is written, or --table FILE")


def portable(command: str) -> str:
    """A command as it is typed in the root of the project, whose absolute paths are cut down to what lies below it.

    Of a path elsewhere, the name is left.
    """
    words = [Path(word) if Path(word).is_absolute() else word for word in shlex.split(command)]
    return shlex.join(word if isinstance(word, str) else _below_root(word) for word in words)


def _below_root(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
