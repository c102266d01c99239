"""The errors that users meet, each with the exit code of the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


_LONGEST = 6000
"""Most characters of an error: a screen or two, whatever the input that it tells about."""
_LONGEST_PROBLEM = 800
"""Most characters of one problem of many."""


class SkimError(Exception):
    """Base of every error that a user can act on; `exit_code` is what a verb returns for it."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(_shortened(message, _LONGEST))


class InputError(SkimError, ValueError):
    """A bad argument, file, checkpoint or artifact. Nothing that existed before is touched."""

    exit_code = 2

    @classmethod
    def listing(cls, subject: str, problems: Sequence[str], remedy: str = "") -> InputError:
        """One error for all the problems of `subject`, a line each; of very many, or long ones, the first.

        remedy: what to do about all of them.
        """
        if len(problems) == 1:
            return cls("; ".join(filter(None, (f"{subject}: {problems[0]}", remedy))))
        lines: list[str] = []
        left = _LONGEST - 1000
        for problem in problems:
            # A problem begins with its subject and ends with what is wrong.
            line = _shortened(problem, _LONGEST_PROBLEM)
            left -= len(line)
            if left < 0:
                lines.append(f"and {len(problems) - len(lines)} more")
                break
            lines.append(line)
        listed = [f"  - {line}" for line in (*lines, remedy) if line]
        return cls("\n".join([f"{subject}: {len(problems)} problem(s)", *listed]))


class GateError(SkimError):
    """A gate of a build or a parity check failed; nothing is published."""

    exit_code = 3


class BuildError(SkimError):
    """An engine could not be compiled; the message holds the end of its log. Nothing is published."""

    exit_code = 3


class TargetError(SkimError):
    """The target cannot run or build on this machine; the message names the missing package or driver."""

    exit_code = 4


def _shortened(text: str, most: int) -> str:
    """The start and the end of a text that is longer."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} … {len(text) - 2 * half} more characters … {text[-half:]}"


def validation_problems(error: ValidationError) -> list[str]:
    """One readable line per wrong field of a pydantic error: where, what was expected, what was found."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        # Errors that are ours are said in our words, without what pydantic puts in front of them.
        message = str(item["ctx"]["error"]) if item["type"] == "value_error" else item["msg"]
        found = item.get("input")
        told = isinstance(found, dict) or (isinstance(found, float) and math.isnan(found)) or ", found " in message
        shown = "" if told else f", found {found!r}"
        lines.append((f"{where}: " if where else "") + message + (shown if len(shown) < 120 else ""))
    return lines
