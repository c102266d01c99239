"""python -m pipeline: lists the verbs. `skimrt VERB ...` runs one through here."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import runpy
import sys
from pathlib import Path
from typing import NoReturn

VERBS = (
    *("skim", "train", "convert", "build", "run", "serve", "export_triton", "inspect", "parity", "bench", "report"),
    "demo",
)
"""In the order in which a newcomer meets them."""


def main(program: str = "python -m pipeline") -> NoReturn:
    """Runs the verb that the command line names; without one, or with --help, lists them."""
    verb, *rest = sys.argv[1:] or ["--help"]
    if verb in VERBS:
        sys.argv = [f"{program} {verb}" if program == "skimrt" else f"{program}.{verb}", *rest]
        runpy.run_module(_module(verb), run_name="__main__")
        sys.exit(0)
    if verb in ("-h", "--help"):
        print(_listing(program))
        sys.exit(0)
    close = difflib.get_close_matches(verb, VERBS, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    print(f"error: verb {verb!r}: expected one of {', '.join(VERBS)}{guess}", file=sys.stderr)
    sys.exit(2)


def _module(verb: str) -> str:
    """The module of a verb; those with rooms of their own are a `__main__`."""
    return f"pipeline.{verb}.__main__" if (Path(__file__).parent / verb).is_dir() else f"pipeline.{verb}"


def _listing(program: str) -> str:
    dot = " " if program == "skimrt" else "."
    width = max(map(len, VERBS))
    lines = [f"usage: {program}{dot}VERB ...   ({program}{dot}VERB --help explains one)", ""]
    return "\n".join([*lines, *(f"  {verb:<{width}}  {_purpose(verb)}" for verb in VERBS)])


def _purpose(verb: str) -> str:
    """What a verb does, from its docstring; nothing of it is imported, for that may take seconds."""
    spec = importlib.util.find_spec(_module(verb))
    assert spec is not None and spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
    return text.splitlines()[0].partition(": ")[2]


if __name__ == "__main__":
    main()
