"""Labels from a model: what texts without any are trained and judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from calib.data import Example
from calib.targets import Labels
from engines.errors import InputError
from engines.prediction import cut_logits
from engines.tokenization import TextEncoder
from pipeline.model.retention import by_length, padded
from pipeline.model.transformer import PrunedTransformer


@torch.no_grad()
def taught(examples: Sequence[Example], teacher: PrunedTransformer, encode: TextEncoder) -> list[Example]:
    """The examples with the teacher's answers as labels. Raises InputError for one that answers token by token."""
    head = teacher.config.head
    if head.token_level:
        raise InputError(f"texts without labels: expected a teacher that answers whole texts, found {head.kind}")
    samples = encode([example.content for example in examples])
    labels: list[str] = [""] * len(samples)
    targets: list[Labels | None] = [None] * len(samples)
    for chosen in by_length(samples):
        batch = padded([samples[index] for index in chosen], teacher.config.encoder.pad_token_id)
        logits = teacher(batch.input_ids, batch.mask, batch.token_type_ids).logits
        for index, row in zip(chosen, logits, strict=True):
            if head.kind == "multi_label":
                given = (row >= torch.tensor(cut_logits(head))).nonzero().flatten().tolist()
                targets[index] = Labels(tuple(head.labels[number] for number in given))
            else:
                labels[index] = head.labels[int(row.argmax())] if len(head.labels) > 1 else f"{float(row[0]):.6f}"
    answered = zip(examples, labels, targets, strict=True)
    return [replace(example, label=label, target=target) for example, label, target in answered]
