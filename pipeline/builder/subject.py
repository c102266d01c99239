"""Loads what a build and its parity check look at: the model, and the texts of the gates and of planning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from calib.data import Example, has_labels, read_examples, relabelled, splits_of
from calib.labels import listed
from calib.metric import labelled
from calib.row import Columns
from calib.summary import oddities, summary
from engines.tokenization import TextEncoder, Tokens
from pipeline.graph.once import ExportOnce
from pipeline.model.checkpoint import checkpoint_digest, load_checkpoint, tokenizer_path
from pipeline.model.transformer import PrunedTransformer

TYPICAL = 1024
"""Most texts for a plan and for INT8 ranges. A drop counted on 256 texts would have a standard error of 0.8 points."""


class Inputs:
    """Reads every checkpoint and every set of examples once, and exports every stage once, for builds that share them.

    columns: what files call their label and texts, where that is not the usual.
    """

    def __init__(self, columns: Columns | None = None) -> None:
        self._columns = columns
        self._examples, self._models = cache(read_examples), cache(load_checkpoint)
        self._exports: dict[tuple[Path, bool, bool], ExportOnce] = {}

    def examples(self, data: str, split: str) -> list[Example]:
        """The examples of a named set's split, or of a file, which has no splits. Raises InputError."""
        named = split if splits_of(data) else "test"
        return self._examples(data, named, columns=self._columns, unlabelled=True)

    def model(self, checkpoint: Path) -> PrunedTransformer:
        """The model of a checkpoint. Raises InputError."""
        return self._models(checkpoint)

    def export(self, checkpoint: Path, programs: bool, operator: bool) -> ExportOnce:
        """What exports the stages of a checkpoint's model; programs, operator: see ExportOnce."""
        return self._exports.setdefault((checkpoint, programs, operator), ExportOnce(programs, operator))


@dataclass(frozen=True)
class Subject:
    """A model and its texts.

    examples, samples: the gates' texts, and their tokens.
    typical:           texts like those of later requests.
    assumed:           what was assumed about the labels, to tell the user; None: nothing.
    typical_length:    tokens at which typical texts are cut, if that is less than the model's limit.
    """

    checkpoint: Path
    model: PrunedTransformer
    examples: Sequence[Example]
    samples: Sequence[Tokens]
    data: str
    typical: Sequence[Example] = ()
    assumed: str | None = None
    typical_length: int | None = None

    @classmethod
    def load(cls, checkpoint: Path, data: str, count: int, columns: Columns | None = None) -> Subject:
        """Loads a checkpoint and the first `count` examples of the test split (or the file). Raises InputError."""
        return cls.of(checkpoint, load_checkpoint(checkpoint), data, Inputs(columns).examples(data, "test")[:count])

    @classmethod
    def of(
        cls,
        checkpoint: Path,
        model: PrunedTransformer,
        data: str,
        examples: Sequence[Example],
        typical: Sequence[Example] = (),
    ) -> Subject:
        """Returns the subject for inputs that are read already. Labels that are not the model's are matched to them
        where possible.
        """
        names = model.config.head.labels
        examples, assumed = relabelled(examples, names)
        typical, _ = relabelled(typical[:TYPICAL], names)
        return cls(checkpoint, model, examples, tokens_of(checkpoint, model, examples), data, typical, assumed)

    def report(self) -> list[str]:
        """What was taken as data, and what is odd about it."""
        head = self.model.config.head
        fits = labelled(head, self.examples)
        regression = head.one_value and fits
        odd = oddities(self.examples, regression)
        if self.assumed is not None:
            odd.append(self.assumed)
        if not has_labels(self.examples) and head.kind != "embedding":
            odd.append("it has no labels: no accuracy is measured")
        elif not fits and not head.token_level:
            expected = "numbers" if head.one_value else listed(head.labels)
            odd.append(f"its labels are not the model's, {expected}: no accuracy is measured")
        taken = summary(self.data, self.examples, head.kind if regression else None)
        return [f"data  {taken}", *(f"WARNING: {self.data}: {o}" for o in odd)]

    @cached_property
    def digest(self) -> str:
        """The checkpoint's digest."""
        return checkpoint_digest(self.checkpoint)


def tokens_of(
    checkpoint: Path, model: PrunedTransformer, examples: Sequence[Example], max_length: int | None = None
) -> list[Tokens]:
    """Returns the tokens of the examples, cut at the model's max_length as in training, or at a shorter one."""
    tokens = encoder_of(checkpoint, model, max_length)([example.content for example in examples])
    return [replace(t, full_length=len(t)) for t in tokens]


def encoder_of(checkpoint: Path, model: PrunedTransformer, max_length: int | None = None) -> TextEncoder:
    """The tokenizer of a checkpoint, as the runner uses it."""
    longest = min(model.config.max_length, max_length or model.config.max_length)
    segments, origins = model.config.encoder.type_vocab_size, model.config.head.token_level
    return TextEncoder(tokenizer_path(checkpoint), longest, segments, origins=origins)
