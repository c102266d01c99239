"""Builds an engine without the profiles that cannot be built, and finds out which those are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engines.backends.base import Built
from engines.buckets import Bucket
from engines.errors import BuildError
from engines.plan import Unit, profile_stem

Errors = dict[Bucket, BuildError]
"""By bucket, why a profile cannot be built."""
Build = Callable[[Sequence[Bucket], Path], Built]
"""Compiles an engine with these profiles into a file. Raises BuildError."""


def build_what_can_be(unit: Unit, buckets: Sequence[Bucket], out: Path, build: Build) -> tuple[Built | None, Errors]:
    """Builds an engine with as many of its profiles as can be; None where there is not one.

    A library tells that an engine failed, not for which profile. Halves are tried until single ones are left, in files
    of their own, beside which the logs of those that fail stay.
    """
    try:
        return build(buckets, out), {}
    except BuildError as error:
        whole = error
    errors = _failing(unit, buckets, out, build) or dict.fromkeys(buckets, whole)
    rest = [bucket for bucket in buckets if bucket not in errors]
    if not rest:
        return None, errors
    try:
        return build(rest, out), errors
    except BuildError as error:
        return None, errors | dict.fromkeys(rest, error)


def _failing(unit: Unit, buckets: Sequence[Bucket], out: Path, build: Build) -> Errors:
    """Which of these buckets fail, all of which have failed together; {} where smaller numbers of them do not."""
    errors: Errors = {}
    middle = (len(buckets) + 1) // 2
    for half in (buckets[:middle], buckets[middle:]):
        if not half:
            continue
        trial = out.with_name(profile_stem(unit, half[-1]) + out.suffix)
        try:
            build(half, trial)
        except BuildError as error:
            errors |= {half[0]: error} if len(half) == 1 else _failing(unit, half, out, build)
        finally:
            trial.unlink(missing_ok=True)
    return errors
