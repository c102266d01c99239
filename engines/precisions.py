"""What a build with `--precision auto` compared."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class ComparedPrecision(BaseModel):
    """A precision that a build with `--precision auto` looked at.

    milliseconds: of a text in the uncut model, by batch size; empty where it was not timed.
    reason:       why another one was taken; empty for the one that was.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: str
    milliseconds: dict[int, float] = {}
    reason: str = ""


def told(compared: Sequence[ComparedPrecision]) -> str:
    """What was compared, in a line: the taken precision, then the others with their reasons; "" of nothing."""
    taken, others = list[str](), list[str]()
    for found in compared:
        times = ", ".join(f"{value:.2f} ms at batch {batch}" for batch, value in found.milliseconds.items())
        said = "; ".join(filter(None, [times, found.reason]))
        (others if found.reason else taken).append(f"{found.precision}{f' ({said})' if said else ''}")
    return "; not ".join(filter(None, [", ".join(taken), ", not ".join(others)]))
