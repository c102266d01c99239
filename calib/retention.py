"""Retention statistics: how many rows each sample carries after every layer, with quantiles by length, as JSON.

A build writes them into its artifact, and the artifact's report draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, field_validator

from engines.errors import InputError, validation_problems

FILE = "retention.json"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"""The quantiles that the JSON file shows; 1.0 is the largest count seen."""

Row = Annotated[list[int], Field(min_length=2)]


class RetentionBin(BaseModel):
    """Samples of `shortest` to `longest` real tokens (those seen, both included).

    mean:      [layers + 1], mean rows: the real length, then behind each layer's decision.
    quantiles: one list [layers + 1] for each of QUANTILES, each a count that some sample has.
    """

    model_config = ConfigDict(frozen=True)

    shortest: int
    longest: int
    samples: int
    mean: list[float]
    quantiles: dict[str, list[int]]


class RetentionStatistics(BaseModel):
    """Row counts of every sample of a data set under one checkpoint.

    data, data_sha256: the set and its digest; checkpoint_sha256: the model that decided.
    rows: one list [layers + 1] per sample: its real length, then the rows carried on behind the decision of each
          layer (the alive ones, and the first, which is always carried). A layer without a decision repeats the count
          before it. These are the raw counts, so that expectations over any choice of buckets are exact.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    data: str
    data_sha256: str
    checkpoint_sha256: str
    rows: list[Row] = Field(min_length=1)

    @classmethod
    def read(cls, path: Path) -> RetentionStatistics:
        """Reads a file that `write` wrote. Raises InputError for any other file."""
        try:
            return cls.model_validate_json(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: expected retention statistics, found {error}") from None
        except ValidationError as error:
            raise InputError.listing(str(path), validation_problems(error)) from None

    def write(self, path: Path) -> None:
        """Writes one JSON file. Its bins are for readers; `read` computes them again."""
        path.write_text(self.model_dump_json() + "\n", "utf-8")

    @field_validator("rows")
    @classmethod
    def _counts_can_be(cls, rows: list[list[int]]) -> list[list[int]]:
        if len({len(row) for row in rows}) != 1:
            raise ValueError("every sample needs as many counts as every other")
        counts = np.asarray(rows)
        wrong = np.flatnonzero((counts.min(1) < 1) | (np.diff(counts, axis=1) > 0).any(1))
        if wrong.size:
            raise ValueError(
                f"counts must be at least 1 and never grow from layer to layer; sample {wrong[0]} has {rows[wrong[0]]}"
            )
        return rows

    @cached_property
    def counts(self) -> np.ndarray:
        """[samples, layers + 1] int: the real length, then the rows behind the decision of each layer. Read only."""
        counts = np.asarray(self.rows, np.int64)
        counts.flags.writeable = False
        return counts

    def quantile(self, share: float) -> np.ndarray:
        """[layers + 1] int: the smallest counts that at least `share` of the samples do not exceed."""
        return np.quantile(self.counts, share, axis=0, method="inverted_cdf")

    def of_lengths(self, shortest: int, longest: int) -> RetentionStatistics | None:
        """Returns the samples within a range of real lengths, both ends included; None if there are none."""
        chosen = (self.counts[:, 0] >= shortest) & (self.counts[:, 0] <= longest)
        rows = [row for row, wanted in zip(self.rows, chosen.tolist(), strict=True) if wanted]
        if not rows:
            return None
        return RetentionStatistics(
            data=self.data, data_sha256=self.data_sha256, checkpoint_sha256=self.checkpoint_sha256, rows=rows
        )

    def by_length(self, ends: Sequence[int]) -> list[RetentionBin]:
        """One bin for each length class that holds samples; a class ends with each of `ends` (ascending, inclusive)."""
        bins, start = [], 1
        for end in ends:
            part = self.of_lengths(start, end)
            if part is not None:
                bins.append(part._summary())
            start = end + 1
        return bins

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bins(self) -> list[RetentionBin]:
        """All samples first, then by real length in powers of two: 1 to 16, 17 to 32, ..."""
        longest, ends = int(self.counts[:, 0].max()), [16]
        while ends[-1] < longest:
            ends.append(2 * ends[-1])
        return [self._summary(), *self.by_length(ends)]

    def _summary(self) -> RetentionBin:
        lengths = self.counts[:, 0]
        return RetentionBin(
            shortest=int(lengths.min()),
            longest=int(lengths.max()),
            samples=len(lengths),
            mean=self.counts.mean(0).round(3).tolist(),
            quantiles={f"{share:g}": self.quantile(share).tolist() for share in QUANTILES},
        )
