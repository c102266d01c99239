"""Guards imports that an installation may lack. This module imports nothing slow."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

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
    """Ctrl-C, SIGTERM and SIGHUP end the process with a word, after what it has begun is put away.

    The exit codes are those of a shell: 130, 143 and 129. Signals that the caller ignores, as nohup does, stay ignored.
    """
    ours = [s for s in _ENDING if _in_main_thread() and signal.getsignal(s) == signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, _end)
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _end(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # what is put away now is put away once
    print(f"ended by {signal.Signals(number).name}", file=sys.stderr)
    sys.exit(128 + number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def program(verb: str) -> str:
    """What a verb is called by in its help: as the command line called it."""
    return sys.argv[0] if sys.argv[0] == f"skimrt {verb}" else f"python -m pipeline.{verb}"
