"""What a build and its parity check look at: the model, and the texts that it is judged on and planned for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from calib.data import NAMED_SETS, Example, read_examples, relabelled
from engines.tokenization import TextEncoder, Tokens
from pipeline.model.checkpoint import checkpoint_digest, load_checkpoint, tokenizer_path
from pipeline.model.transformer import PrunedTransformer

TYPICAL = 1024
"""Most texts that a plan and INT8 ranges are made from. A drop counted on 256 has a standard error of 0.8 points."""


class Inputs:
    """Reads every checkpoint and every set of examples once, for a build and for that of the dense model beside it."""

    def __init__(self) -> None:
        self._examples, self._models = cache(read_examples), cache(load_checkpoint)

    def examples(self, data: str, split: str) -> list[Example]:
        """The examples of a named set's split, or of a file, which has no splits. Raises InputError."""
        return self._examples(data, split if data in NAMED_SETS else "test")

    def model(self, checkpoint: Path) -> PrunedTransformer:
        """The model of a checkpoint. Raises InputError."""
        return self._models(checkpoint)


@dataclass(frozen=True)
class Subject:
    """A model, and texts.

    examples, samples: of the gates, and what the model sees of them. typical: texts like those that will come.
    assumed: what was assumed of the labels, to be told to the user; None: nothing.
    """

    checkpoint: Path
    model: PrunedTransformer
    examples: Sequence[Example]
    samples: Sequence[Tokens]
    data: str
    typical: Sequence[Example] = ()
    assumed: str | None = None

    @classmethod
    def load(cls, checkpoint: Path, data: str, count: int) -> Subject:
        """Loads a checkpoint and the first `count` examples of the test split (or the file). Raises InputError."""
        return cls.of(checkpoint, load_checkpoint(checkpoint), data, read_examples(data, "test")[:count])

    @classmethod
    def of(
        cls,
        checkpoint: Path,
        model: PrunedTransformer,
        data: str,
        examples: Sequence[Example],
        typical: Sequence[Example] = (),
    ) -> Subject:
        """Of what was read already; labels that are not the model's are taken for its, where that is meant."""
        names = model.config.head.labels
        examples, assumed = relabelled(examples, names)
        typical, _ = relabelled(typical[:TYPICAL], names)
        return cls(checkpoint, model, examples, tokens_of(checkpoint, model, examples), data, typical, assumed)

    @cached_property
    def digest(self) -> str:
        """The checkpoint's digest."""
        return checkpoint_digest(self.checkpoint)


def tokens_of(checkpoint: Path, model: PrunedTransformer, examples: Sequence[Example]) -> list[Tokens]:
    """What the model sees of the examples: longer texts are cut at max_length, as in training."""
    tokens = encoder_of(checkpoint, model)([example.content for example in examples])
    return [Tokens(t.input_ids, t.token_type_ids, len(t)) for t in tokens]


def encoder_of(checkpoint: Path, model: PrunedTransformer) -> TextEncoder:
    """The tokenizer of a checkpoint, as the runner uses it."""
    return TextEncoder(tokenizer_path(checkpoint), model.config.max_length, model.config.encoder.type_vocab_size)
