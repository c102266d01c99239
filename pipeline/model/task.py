"""Whether two checkpoints do one task, so that one can teach the other or be compared with it."""

from __future__ import annotations

from pathlib import Path

from engines.errors import InputError
from engines.files import sha256
from pipeline.model.checkpoint import read_config, tokenizer_path
from pipeline.model.config import CheckpointConfig, HeadConfig

_SHOWN = 20
"""Most labels that an error lists."""


def refuse_other_task(flag: str, path: str | Path, config: CheckpointConfig, tokenizer: Path) -> None:
    """Refuses a checkpoint, named by `flag`, that does not do the task of the model of `config` and `tokenizer`.

    The task is the kind of head, the labels in their order, the tokens, and inputs as long as the model takes. Raises
    InputError with every difference.
    """
    other = read_config(path)
    problems = []
    if _task(other.head) != _task(config.head):
        problems.append(f"head: expected {_described(config.head)}, found {_described(other.head)}")
    ours, theirs = sha256(tokenizer), sha256(tokenizer_path(path))
    if ours != theirs:
        problems.append(f"tokenizer.json: expected SHA-256 {ours[:12]}…, found {theirs[:12]}…")
    if other.encoder.longest_input < config.max_length:
        problems.append(f"length: expected at least {config.max_length} tokens, found {other.encoder.longest_input}")
    if problems:
        subject = f"{flag} {path}, which has another task; name a checkpoint with the model's labels and tokenizer"
        raise InputError.listing(subject, problems)


def _task(head: HeadConfig) -> tuple[str, int | None, list[str]]:
    # What a regression or ranking calls its only output changes nothing about it.
    return head.kind, head.size, [] if head.one_value else head.labels


def _described(head: HeadConfig) -> str:
    if head.one_value:
        return f"a {head.kind}"
    if head.kind == "embedding":
        return f"an embedding of {head.size}"
    labels = head.labels[:_SHOWN] + ["…"] * (len(head.labels) > _SHOWN)
    return f"a {head.kind} of {len(head.labels)} in the order {', '.join(labels)}"
