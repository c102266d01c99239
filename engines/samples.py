"""A sample in flight between stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from engines.errors import SkimError
from engines.prediction import SampleResult
from engines.tokenization import Tokens

if TYPE_CHECKING:
    from engines.device_rows import Resident


@dataclass
class Sample:
    """What is known of one input while it passes through the stages.

    unit:     the stage (or head) that it goes into next, and `rows` how many rows it has there.
    hidden:   [rows, D], with `alive` and `position` [rows] int32; None in front of stage 0, and on a device.
    resident: where these three lie on a device between two calls.
    restored: [length, D], every token's last processed state at its original place; token-level heads only.
    pooled:   [D + 1], what its dropped rows add to the mean of all, see engines.stages.POOLED; only for such heads.
    logits:   [outputs] or [length, outputs] once it is done.
    error:    why it goes no further, without an answer.
    """

    number: int
    tokens: Tokens
    unit: int = 0
    hidden: np.ndarray | None = None
    alive: np.ndarray | None = None
    position: np.ndarray | None = None
    resident: Resident | None = None
    restored: np.ndarray | None = None
    pooled: np.ndarray | None = None
    logits: np.ndarray | None = None
    error: SkimError | None = None
    survivors: list[np.ndarray] = field(default_factory=list)
    carried: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows that the next unit has to hold."""
        if self.resident is not None:
            return self.resident.count
        if self.hidden is not None:
            return len(self.hidden)
        return len(self.tokens)

    def result(self) -> SampleResult:
        """What the sample gave; it must be done."""
        assert self.logits is not None
        return SampleResult(len(self.tokens), self.logits, self.survivors, self.carried, self.tokens.origin)

    def take_error(self) -> SkimError:
        """The error, which it no longer holds: once raised it refers to the frames, and these to the sample."""
        error, self.error = self.error, None
        assert error is not None
        return error
