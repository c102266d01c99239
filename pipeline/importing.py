"""Guards imports that an installation may lack. This module imports nothing slow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NOT_TO_INSTALL = ("", "calib", "engines", "pipeline", "plugins", "skimrt")
"""Where one of these is not found it is a defect, which no installation mends."""


@contextmanager
def importing(module: str, requirement: str) -> Iterator[None]:
    """Around the imports of the verb `module` (its __name__), all of which `pip install requirement` provides.

    As a command the verb exits as main_of does: 4 where a package is missing, 130 when it is interrupted. Imported
    as a library it raises what the imports raise.
    """
    if module != "__main__":
        yield
        return
    with interruptible():
        try:
            yield
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in _NOT_TO_INSTALL:
                raise
            print(f"error: the package {package} is not installed; pip install '{requirement}'", file=sys.stderr)
            sys.exit(4)  # as for TargetError, whose own module imports more than may be there


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends the process with a word and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def program(verb: str) -> str:
    """What a verb is called by in its help: as the command line called it."""
    return sys.argv[0] if sys.argv[0] == f"skimrt {verb}" else f"python -m pipeline.{verb}"
