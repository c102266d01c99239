"""The dense model that a build is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from calib.data import Example, examples_digest
from calib.metric import measure
from engines.errors import InputError
from engines.tokenization import Tokens
from pipeline.builder.subject import Inputs, tokens_of
from pipeline.model.checkpoint import checkpoint_digest, read_config, tokenizer_path
from pipeline.model.reference import Reference
from pipeline.model.task import refuse_other_task
from pipeline.model.transformer import PrunedTransformer


class DenseModel:
    """A dense checkpoint that is loaded and run when its answers are needed; several builds may share one.

    flag: its option on the command line.
    """

    def __init__(self, checkpoint: Path, inputs: Inputs | None = None, flag: str = "--dense") -> None:
        self.checkpoint, self.flag, self._inputs = checkpoint, flag, inputs or Inputs()
        self._answers: dict[str, tuple[list[np.ndarray], Sequence[Example], Sequence[Tokens]]] = {}

    @cached_property
    def model(self) -> PrunedTransformer:
        """The model in PyTorch."""
        return self._inputs.model(self.checkpoint)

    @cached_property
    def digest(self) -> str:
        """The checkpoint's digest."""
        return checkpoint_digest(self.checkpoint)

    def refuse_for(self, checkpoint: Path) -> None:
        """Raises InputError unless it is a dense model of the checkpoint's task; otherwise its metric says nothing."""
        refuse_other_task(self.flag, self.checkpoint, read_config(checkpoint), tokenizer_path(checkpoint))
        method = read_config(self.checkpoint).pruner.method
        if method != "dense":
            raise InputError(
                f"{self.flag} {self.checkpoint}: expected a dense model to compare with, found one that skips tokens "
                f"({method}); name the model that it was trained from"
            )

    @cached_property
    def max_length(self) -> int:
        """Tokens that it takes."""
        return read_config(self.checkpoint).max_length

    def length_warning(self, max_length: int) -> str | None:
        """What a build says where the dense model takes another number of tokens than the model."""
        if self.max_length == max_length:
            return None
        return (
            f"{self.flag} {self.checkpoint}: it takes {self.max_length} tokens, the model {max_length}; the accuracy "
            f"of each is measured at its own length, times and FLOPs of both at {min(self.max_length, max_length)}"
        )

    def metric(self, examples: Sequence[Example]) -> float:
        """Returns its task metric on texts cut at its own maximum length; that of an embedding is 1."""
        return next(iter(self.figures(examples).values()))

    def figures(self, examples: Sequence[Example]) -> dict[str, float]:
        """Returns all figures of its task metric."""
        return measure(self.model.config.head, *self._answered(examples))

    def answers(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """Returns its logits on texts cut at its own maximum length."""
        return self._answered(examples)[0]

    def _answered(self, examples: Sequence[Example]) -> tuple[list[np.ndarray], Sequence[Example], Sequence[Tokens]]:
        key = examples_digest(examples)
        if key not in self._answers:
            samples = tokens_of(self.checkpoint, self.model, examples)
            logits = [answer.numpy() for answer in Reference.of(self.model, samples).logits]
            self._answers[key] = logits, examples, samples
        return self._answers[key]
