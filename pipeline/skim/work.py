"""What a run has done so far, and whether it is its own: an interrupted one goes on where it stopped."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from calib.data import Data, examples_digest
from engines.artifact import Artifact
from engines.errors import InputError
from engines.manifest import MANIFEST_NAME
from engines.writing import write_whole
from pipeline.model.checkpoint import checkpoint_digest
from pipeline.model.config import CheckpointConfig
from pipeline.skim.sets import PARTS
from pipeline.training.resume import RECORD

_SETTINGS, _PARITY = "skim.json", "parity.json"
_OF_THE_BUILD = {"--max-drop", "--precision", "--buckets"}
"""Settings that a trained model does not depend on: a build that failed is tried again with others."""


@dataclass(frozen=True)
class Skim:
    """One run: what was asked for, where its work lies, and the seconds of each step that it took."""

    args: argparse.Namespace
    config: CheckpointConfig
    work: Path
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        """Where the trained checkpoint is written."""
        return self.work / "checkpoint"

    def part(self, name: str) -> Path:
        """The file of one of the three sets."""
        return self.work / f"{name}.jsonl"

    def say(self, line: str) -> None:
        """Prints a line as it is."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    @property
    def is_trained(self) -> bool:
        """Whether the checkpoint is whole."""
        return (self.checkpoint / RECORD).is_file()

    @property
    def is_built(self) -> bool:
        """Whether the artifact is there, of the checkpoint of this very work."""
        try:
            manifest = Artifact.open(self.args.out, verify=False).manifest
            return manifest.checkpoint.sha256 == checkpoint_digest(self.checkpoint)
        except InputError:
            return False

    @property
    def is_checked(self) -> bool:
        """Whether parity has held for this very artifact."""
        path = self.work / _PARITY
        return path.is_file() and self.is_built and json.loads(path.read_text("utf-8")) == self._proof()

    def mark_checked(self) -> None:
        """Keeps that parity holds."""
        write_whole(self.work / _PARITY, (json.dumps(self._proof()) + "\n").encode())

    def claim(self, sets: dict[str, Data]) -> None:
        """Takes the directory of the work. Raises InputError for what a run with other settings has left there."""
        path, settings = self.work / _SETTINGS, _settings(self.args, sets)
        trained = self.checkpoint.is_dir() and any(self.checkpoint.iterdir())
        if path.is_file() and trained:
            before = json.loads(path.read_text("utf-8"))
            decided = {**settings, **before}.keys() - (set() if self.is_built else _OF_THE_BUILD)
            if other := sorted(name for name in decided if settings.get(name) != before.get(name)):
                raise InputError(
                    f"{self.work}: it holds the work of a run with another {', '.join(other)}; give the same command "
                    "to go on with it, choose another --out, or remove it"
                )
        write_whole(path, (json.dumps(settings, indent=1) + "\n").encode())

    def refuse_taken(self) -> None:
        """Raises InputError now, not behind an hour of training, where the artifact could not be published."""
        out = self.args.out
        if out.is_symlink() or (out.exists() and not out.is_dir()):
            raise InputError(f"--out {out}: expected a directory or nothing, found a file or a link")
        if out.is_dir() and any(out.iterdir()) and not self.is_built:
            raise InputError(f"--out {out}: it holds something else already; choose another directory")

    def _proof(self) -> dict[str, str]:
        return {"manifest": hashlib.sha256((self.args.out / MANIFEST_NAME).read_bytes()).hexdigest()}


def _settings(args: argparse.Namespace, sets: dict[str, Data]) -> dict[str, str]:
    """What decides the outcome, by what a user calls it."""
    free = ("model", "out", "json", "threads", "data", "dev_data", "test_data", "label", "text", "text_b")
    options = {f"--{name.replace('_', '-')}": str(v) for name, v in vars(args).items() if name not in free}
    texts = hashlib.sha256("".join(examples_digest(sets[name].examples) for name in PARTS).encode())
    return {**options, "the content of the model": checkpoint_digest(args.model), "the texts": texts.hexdigest()}
