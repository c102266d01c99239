"""What all verbs share: running with the exit codes of the command line."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import NoReturn

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
