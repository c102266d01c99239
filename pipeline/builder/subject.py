"""What a build and its parity check look at: the model, the texts of the gates, and how right its answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calib.data import Example, read_examples
from engines.tokenization import TextEncoder, Tokens
from pipeline.builder.config import BuildConfig
from pipeline.model.checkpoint import load_checkpoint, read_config, tokenizer_path
from pipeline.model.task import refuse_other_task
from pipeline.model.transformer import PrunedTransformer


@dataclass(frozen=True)
class Subject:
    """The model, and the texts that the gates use."""

    checkpoint: Path
    model: PrunedTransformer
    examples: Sequence[Example]
    samples: Sequence[Tokens]
    data: str

    @classmethod
    def load(cls, checkpoint: Path, data: str, count: int) -> Subject:
        """Loads a checkpoint and the first `count` examples of the test split (or the file). Raises InputError."""
        model = load_checkpoint(checkpoint)
        examples = read_examples(data, "test")[:count]
        return cls(checkpoint, model, examples, tokens_of(checkpoint, model, examples), data)


def refuse_other_dense(config: BuildConfig) -> None:
    """Raises InputError for a dense checkpoint of another task, whose metric and time say nothing about this one."""
    if config.dense_checkpoint is not None:
        model = read_config(config.checkpoint)
        refuse_other_task("--dense", config.dense_checkpoint, model, tokenizer_path(config.checkpoint))


def tokens_of(checkpoint: Path, model: PrunedTransformer, examples: Sequence[Example]) -> list[Tokens]:
    """What the model sees of the examples: longer texts are cut at max_length, as in training."""
    tokens = encoder_of(checkpoint, model)([example.content for example in examples])
    return [Tokens(t.input_ids, t.token_type_ids, len(t)) for t in tokens]


def encoder_of(checkpoint: Path, model: PrunedTransformer) -> TextEncoder:
    """The tokenizer of a checkpoint, as the runner uses it."""
    return TextEncoder(tokenizer_path(checkpoint), model.config.max_length, model.config.encoder.type_vocab_size)
