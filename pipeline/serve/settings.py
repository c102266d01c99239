"""What a service is started with."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from pathlib import Path

from engines.errors import InputError
from engines.reading import PLAIN, Reading
from engines.runner import Runner


@dataclass(frozen=True)
class Settings:
    """The flags of `skimrt serve`; plain values, which go to the processes of replicas.

    threads:  CPU threads of a replica's calls; None: its share of the cores, or the library's choice for one replica.
    batch:    texts of a call; texts: of a request; queue: that wait; size: bytes of a request.
    max_wait: seconds that a text waits for others; timeout: seconds for a request; grace: for those that are in flight
              when the service ends.
    Raises InputError, with all problems at once.
    """

    artifact: Path
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    target: str = "auto"
    provider: str | None = None
    threads: int | None = None
    truncate: bool = False
    reading: Reading = PLAIN
    max_wait: float = 0.002
    batch: int = 64
    texts: int = 256
    queue: int = 1024
    size: int = 4 * 2**20
    timeout: float = 30.0
    grace: float = 30.0

    def __post_init__(self) -> None:
        problems = [
            f"{_FLAGS[one.name]}: expected at least 1, found {value}"
            for one in fields(self)
            if one.name in _FLAGS and (value := getattr(self, one.name)) is not None and value < 1
        ]
        if not 0 <= self.port < 2**16:
            problems.append(f"--port: expected 0 to 65535, found {self.port}")
        if not 0 <= self.max_wait <= 10:
            problems.append(f"--max-wait-ms: expected 0 to 10000, found {1000 * self.max_wait:g}")
        for name, value in (("--timeout", self.timeout), ("--grace", self.grace)):
            if not 0 < value < math.inf:
                problems.append(f"{name}: expected seconds above 0, found {value:g}")
        if self.queue < self.texts and not problems:
            problems.append(f"--queue: expected at least --max-texts {self.texts}, found {self.queue}")
        if problems:
            raise InputError.listing("serve", problems)

    def runner(self) -> Runner:
        """The artifact with every engine loaded. Raises InputError or TargetError."""
        threads = self.threads
        if threads is None and self.replicas > 1:
            threads = max(1, (os.cpu_count() or 1) // self.replicas)
        runner = Runner(
            self.artifact,
            self.target,
            provider=self.provider,
            threads=threads,
            truncate=self.truncate,
            reading=self.reading,
        )
        runner.warm_up()
        return runner


_FLAGS = {
    "replicas": "--replicas",
    "threads": "--threads",
    "batch": "--max-batch",
    "texts": "--max-texts",
    "queue": "--queue",
    "size": "--max-bytes",
}
"""Settings that are counts."""
