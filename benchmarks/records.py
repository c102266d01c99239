"""The record of a benchmark, a JSON file: the flags that name one, its writing, and the table that a document shows."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from engines.writing import write_whole


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
