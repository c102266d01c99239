"""What a verb comes to on an input that nobody should have to survive: its exit code and what it printed."""

from __future__ import annotations

import faulthandler
import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from types import ModuleType

from tests.gates.builds import run_verb

EXPECTED = (0, 1, 2, 3, 4)
"""The exit codes that --help of the verbs gives, but for 70: something that nobody foresaw."""
_SECONDS, _PROCESSOR_SECONDS = 900, 90
"""A verb that takes longer, or computes for longer, counts as hanging. Other work on the machine makes none hang."""


@dataclass(frozen=True)
class Outcome:
    """Of one verb."""

    code: int
    out: str
    error: str

    @property
    def problem(self) -> str | None:
        """Why no user should see this, or None."""
        if self.code not in EXPECTED:
            return f"exit code {self.code}: {self.error.strip()[-300:]}"
        if self.code in (2, 4) and not self.error.startswith(("error: ", "usage: ")) and "\nerror: " not in self.error:
            return f"exit code {self.code} without an error: {self.error.strip()[-300:]!r}"
        if "Traceback" in self.error or len(self.error) > 20_000:
            return f"exit code {self.code} with {len(self.error)} characters: {self.error[:300]!r}"
        return None

    @property
    def refusal(self) -> str | None:
        """Why this is no refusal of bad input in one line, or None."""
        lines = self.error.splitlines()
        if self.code == 2 and len(lines) == 1 and lines[0].startswith("error: "):
            return None
        return f"exit code {self.code}, {len(lines)} line(s): {self.error[:300]!r}"


def outcome_of(verb: ModuleType, *arguments: object) -> Outcome:
    """Runs a verb in this process, as its command does. One that hangs is ended, with exit code 70."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error), _time_limit():
        code = run_verb(verb, *arguments)
    return Outcome(code, out.getvalue(), error.getvalue())


class _Hang(BaseException):
    """No Exception, so that nobody takes it for something that was foreseen."""


@contextmanager
def _time_limit() -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise _Hang(f"still running after {_SECONDS} s, or {_PROCESSOR_SECONDS} s of processor time")

    timers = {signal.SIGALRM: (signal.ITIMER_REAL, _SECONDS), signal.SIGPROF: (signal.ITIMER_PROF, _PROCESSOR_SECONDS)}
    before = {number: signal.signal(number, end) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    # For code that lets no signal through; pytest's own standard error has no descriptor.
    faulthandler.dump_traceback_later(2 * _SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
