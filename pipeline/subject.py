"""What a build and its parity check look at: the model, the texts of the gates, and how right its answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calib.data import Example, examples_digest, read_examples, relabelled
from calib.labels import listed
from calib.summary import oddities, summary
from engines.artifact import Gate
from engines.runner import Runner
from engines.tokenization import TextEncoder, Tokens
from pipeline import gates
from pipeline.config import BuildConfig
from pipeline.gates.metric import accuracy, labelled
from pipeline.gates.reference import Reference
from pipeline.model.checkpoint import checkpoint_digest, load_checkpoint, read_config, tokenizer_path
from pipeline.model.task import refuse_other_task
from pipeline.model.transformer import PrunedTransformer

_DENSE_METRICS: dict[tuple[str, str], float] = {}


@dataclass(frozen=True)
class Subject:
    """The model, and the texts that the gates use; `assumed` tells how their labels were taken as the model's."""

    checkpoint: Path
    model: PrunedTransformer
    examples: Sequence[Example]
    samples: Sequence[Tokens]
    data: str
    assumed: str | None = None

    @classmethod
    def load(cls, checkpoint: Path, data: str, count: int) -> Subject:
        """Loads a checkpoint and the first `count` examples of the test split (or the file). Raises InputError."""
        model = load_checkpoint(checkpoint)
        examples, assumed = relabelled(read_examples(data, "test")[:count], model.config.head.labels)
        return cls(checkpoint, model, examples, tokens_of(checkpoint, model, examples), data, assumed)

    def report(self) -> list[str]:
        """What was taken as data, and what is odd about it."""
        head = self.model.config.head
        fits = labelled(head, self.examples)
        regression = head.kind == "regression" and fits
        odd = oddities(self.examples, regression)
        if self.assumed is not None:
            odd.append(self.assumed)
        if not fits and not head.token_level:
            expected = "numbers" if head.kind == "regression" else listed(head.labels)
            odd.append(f"its labels are not the model's, {expected}: no accuracy is measured")
        return [f"data  {summary(self.data, self.examples, regression)}", *(f"WARNING: {self.data}: {o}" for o in odd)]


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


def metric_gate(config: BuildConfig, subject: Subject, runner: Runner) -> Gate:
    """Gate 4 on the first `metric_samples` examples, against the dense model in PyTorch. Raises InputError."""
    refuse_other_dense(config)
    count = min(config.metric_samples, len(subject.examples))
    wanted = subject.model.config.head
    if not labelled(wanted, subject.examples):
        expected = "numbers" if wanted.kind == "regression" else f"the model's ({listed(wanted.labels)})"
        reason = f"the labels of {subject.data} are not {expected}"
        return Gate(name="task metric", status="SKIPPED", reason=reason)
    if wanted.token_level:
        reason = "the data has one label per text, the model one per token"
        return Gate(name="task metric", status="SKIPPED", reason=reason)
    examples, head = subject.examples[:count], runner.manifest.head
    ours = accuracy(head, [r.logits for r in runner.run_tokens(subject.samples[:count])], examples)
    dense = None
    if config.dense_checkpoint is not None:
        digest = checkpoint_digest(config.dense_checkpoint), examples_digest(examples)
        if digest not in _DENSE_METRICS:  # a demo compares several models with the same dense one
            baseline = Reference.of(load_checkpoint(config.dense_checkpoint), subject.samples[:count])
            _DENSE_METRICS[digest] = accuracy(head, [logits.numpy() for logits in baseline.logits], examples)
        dense = _DENSE_METRICS[digest]
    return gates.task_metric(ours, dense, count, config.max_drop)
