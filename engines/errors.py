"""The errors that users meet, each with the exit code of the command line."""

from __future__ import annotations

from collections.abc import Sequence


class SkimError(Exception):
    """Base of every error that a user can act on; `exit_code` is what a verb returns for it."""

    exit_code = 1


class InputError(SkimError, ValueError):
    """A bad argument, file, checkpoint or artifact. Nothing that existed before is touched."""

    exit_code = 2

    @classmethod
    def listing(cls, subject: str, problems: Sequence[str]) -> InputError:
        """One error for all the problems of `subject`, a line each."""
        return cls(f"{subject}: {len(problems)} problem(s)\n" + "\n".join(f"  - {line}" for line in problems))


class GateError(SkimError):
    """A gate of a build or a parity check failed; nothing is published."""

    exit_code = 3


class TargetError(SkimError):
    """The target cannot run or build on this machine; the message names the package or driver that is missing."""

    exit_code = 4
