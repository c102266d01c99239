"""Trials: many random inputs of one kind from a seed, what each came to, and the counts as JSON."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engines.writing import write_whole

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "trials.json"
SEED_VARIABLE = "SKIMRT_TRIALS_SEED"
"""A number, or `fresh`; only then and without it are counts written."""
FIXED = 0


@dataclass
class Trials:
    """One run of `count` trials. `whole`: all of them, and their counts are kept; else a sample, with the tests."""

    kind: str
    count: int
    seed: int
    whole: bool
    generator: random.Random = field(init=False)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _what: str = ""

    def __post_init__(self) -> None:
        self.generator = random.Random(self.seed)

    @classmethod
    def of(cls, kind: str, count: int, sample: int) -> list[Any]:
        """Parameters of a test: a sample that always runs, and all trials, which is slow."""
        return [
            pytest.param((kind, sample, False), id="sample"),
            pytest.param((kind, count, True), id="whole", marks=pytest.mark.slow),
        ]

    @classmethod
    def with_seed(cls, kind: str, count: int, whole: bool) -> Trials:
        """Of the seed that the environment gives, for all trials; a sample always has the fixed one."""
        said = os.environ.get(SEED_VARIABLE, str(FIXED)) if whole else str(FIXED)
        return cls(kind, count, random.SystemRandom().randrange(2**32) if said == "fresh" else int(said), whole)

    def begin(self, what: str) -> None:
        """A trial, told in words."""
        self._what = what
        self.counts["trials"] += 1

    def expect(self, result: str, problem: str | None) -> None:
        """Counts a result, or notes why it is none."""
        if problem is None:
            self.counts[result] += 1
        else:
            self.wrong.append(f"{self._what}: {problem}")

    def end(self) -> None:
        """Keeps the counts, and fails if anything was wrong."""
        counts = {**dict(sorted(self.counts.items())), "wrong": len(self.wrong)}
        if self.whole:
            print(f"\n{self.kind}, seed {self.seed}: {counts}")
            self._keep(counts)
        assert not self.wrong, f"{self.kind}, seed {self.seed}:\n" + "\n".join(self.wrong)

    def _keep(self, counts: dict[str, int]) -> None:
        known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
        which = "fixed seed" if self.seed == FIXED else "fresh seed"
        known.setdefault(self.kind, {})[which] = {"seed": self.seed, **counts}
        write_whole(RESULTS, (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())
