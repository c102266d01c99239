"""The dense model that a build is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from calib.data import Example, examples_digest
from calib.metric import accuracy
from engines.errors import InputError
from pipeline.builder.subject import Inputs, tokens_of
from pipeline.model.checkpoint import checkpoint_digest, read_config, tokenizer_path
from pipeline.model.reference import Reference
from pipeline.model.task import refuse_other_task
from pipeline.model.transformer import PrunedTransformer


class DenseModel:
    """A dense checkpoint, loaded and asked when its answers are wanted; several builds may share one.

    flag: what names it on the command line.
    """

    def __init__(self, checkpoint: Path, inputs: Inputs | None = None, flag: str = "--dense") -> None:
        self.checkpoint, self.flag, self._inputs = checkpoint, flag, inputs or Inputs()
        self._metrics: dict[str, float] = {}

    @cached_property
    def model(self) -> PrunedTransformer:
        """The model in PyTorch."""
        return self._inputs.model(self.checkpoint)

    @cached_property
    def digest(self) -> str:
        """The checkpoint's digest."""
        return checkpoint_digest(self.checkpoint)

    def refuse_for(self, checkpoint: Path) -> None:
        """Raises InputError unless it is a dense model of that checkpoint's task: else its metric says nothing."""
        refuse_other_task(self.flag, self.checkpoint, read_config(checkpoint), tokenizer_path(checkpoint))
        method = read_config(self.checkpoint).pruner.method
        if method != "dense":
            raise InputError(
                f"{self.flag} {self.checkpoint}: expected a dense model to compare with, found one that skips tokens "
                f"({method}); name the model that it was trained from"
            )

    def metric(self, examples: Sequence[Example]) -> float:
        """Its own task metric, on texts cut at its own length."""
        key = examples_digest(examples)
        if key not in self._metrics:
            found = Reference.of(self.model, tokens_of(self.checkpoint, self.model, examples))
            logits = [answer.numpy() for answer in found.logits]
            self._metrics[key] = accuracy(self.model.config.head, logits, examples)
        return self._metrics[key]
