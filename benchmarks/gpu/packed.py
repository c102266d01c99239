"""A trial: the rows of all texts of a batch as one matrix, without padding between the texts.

python -m benchmarks.gpu.packed --out packed.json [--batches 1,8,32,128] [--host]

Times dense, ltp and transkimmer in turns, texts in, logits out, and compares each with PyTorch on the CPU. Buckets are
over total rows only. Layers run one by one, without CUDA graphs. --host is the rehearsal without a GPU: its times mean
nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.column_mass import attend, column_mass
from benchmarks.gpu.internals import versions
from calib.data import read_examples
from engines.errors import InputError
from engines.machine import machine_record
from engines.stages import Step
from engines.tokenization import Text, Tokens
from pipeline.builder.config import DEMO
from pipeline.builder.measure import alternate
from pipeline.builder.subject import Subject, encoder_of
from pipeline.cli import main_of
from pipeline.graph.precision import reference_in
from pipeline.model import PrunedTransformer
from pipeline.model.encoder import Attention
from pipeline.model.reference import Reference

_SMALLEST = 64


@dataclass(frozen=True)
class Rows:
    """The rows of a batch: hidden [T, D]; starts [B + 1] int32, where each text begins and the last one ends.

    Behind that is padding up to a bucket. longest: rows of the longest text.
    """

    hidden: Tensor
    starts: Tensor
    longest: int


def bucket_of(rows: int) -> int:
    """The next number of rows that is computed, in steps of 64 or, where that is more, of a quarter at most."""
    step = max(_SMALLEST, 1 << max(0, rows.bit_length() - 3))
    return -(-rows // step) * step


def compacted(rows: Rows, keep: Tensor) -> Rows:
    """The rows that are kept, [T] bool, in order, in a bucket of their own. Waits for their number."""
    size, width = rows.hidden.shape
    before = F.pad(keep.int().cumsum(0), (1, 0))  # [T + 1]: kept rows in front of each
    starts = before[rows.starts.long()].int()
    total, longest = torch.stack([starts[-1], starts.diff().max()]).tolist()
    # Rows that go are all written to one place behind the others.
    places = torch.where(keep, before[:-1], size).long()
    hidden = rows.hidden.new_zeros(size + 1, width).index_copy_(0, places, rows.hidden)
    return Rows(hidden[: bucket_of(total)], starts, longest)


class PackedModel:
    """A model over packed rows: texts in, logits out. Every decision removes rows.

    encode: texts to tokens. batch: texts of a call. counts: of the last call, rows carried on by each decision [B].
    Raises InputError, with all that is in the way, for a model whose scores, positions or head need more than rows.
    """

    def __init__(
        self, model: PrunedTransformer, encode: Callable[[Sequence[Text]], list[Tokens]], batch: int, device: str
    ) -> None:
        _refuse(model)
        self.model, self._encode, self._batch, self._device = model.to(device).eval(), encode, batch, device
        self.counts: list[Tensor] = []

    def __call__(self, texts: Sequence[Text]) -> list[np.ndarray]:
        """The logits of each text, [outputs] fp32."""
        tokens = self._encode(texts)
        calls = (tokens[at : at + self._batch] for at in range(0, len(tokens), self._batch))
        return [logits for call in calls for logits in self.run(call)]

    @torch.no_grad()
    def run(self, samples: Sequence[Tokens]) -> np.ndarray:
        """The logits of one call, [B, outputs] fp32."""
        model, rows, mass = self.model, self._embedded(samples), None
        steps, self.counts = model.steps, []
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            group = model.group(step.layer)
            if step.kind == "attend":
                needed = following == Step("decide", step.layer)
                rows, mass = attended(cast("Attention", model.attention[group]), rows, needed)
            elif step.kind == "feed":
                rows = Rows(model.feed_forward[group](rows.hidden), rows.starts, rows.longest)
            else:
                rows = compacted(rows, self._kept(step.layer, rows, mass))
                self.counts.append(rows.starts.diff().cpu())
        first = model.finished(rows.hidden[rows.starts[:-1].long()])
        return model.head.read(first, first.dtype).cpu().numpy()

    def _embedded(self, samples: Sequence[Tokens]) -> Rows:
        lengths = [len(sample) for sample in samples]
        size = bucket_of(sum(lengths))
        columns = torch.zeros(3, size, dtype=torch.int64)
        at = np.concatenate([[0], np.cumsum(lengths)])
        for sample, begin, end in zip(samples, at, at[1:], strict=False):
            columns[0, begin:end] = torch.as_tensor(sample.input_ids)
            columns[1, begin:end] = torch.as_tensor(sample.token_type_ids)
            columns[2, begin:end] = torch.arange(end - begin)
        starts = torch.from_numpy(at).int().to(self._device)
        return Rows(self.model.embeddings(*columns.to(self._device)), starts, max(lengths))

    def _kept(self, layer: int, rows: Rows, mass: Tensor | None) -> Tensor:
        """[T] bool: the rows that a decision carries on; the first of a text always, padding never."""
        place = torch.arange(len(rows.hidden), device=rows.hidden.device)
        real = place < rows.starts[-1]
        score = self.model.pruner.score(layer, rows.hidden, mass, real.int())
        first = torch.zeros_like(real).index_fill_(0, rows.starts[:-1].long(), True)
        return real & (first | (score >= self.model.pruner.threshold(layer)))


def attended(block: Attention, rows: Rows, need_mass: bool) -> tuple[Rows, Tensor | None]:
    """Rows behind an attention block, and the mass [T] fp32 that each received, if asked for."""
    hidden = rows.hidden
    taken = hidden if not block.before or block.norm is None else block.norm(hidden)
    query, key, value = (
        layer(taken).view(len(hidden), block.heads, -1) for layer in (block.query, block.key, block.value)
    )
    context, log_sums = attend(query, key, value, rows.starts, rows.longest, block.scale)
    mass = column_mass(query, key, log_sums, rows.starts, rows.longest, block.scale) if need_mass else None
    added = hidden + block.output(context.reshape(hidden.shape))
    found = added if block.before or block.norm is None else block.norm(added)
    return Rows(found, rows.starts, rows.longest), mass


def _refuse(model: PrunedTransformer) -> None:
    encoder, pruner, head = model.config.encoder, model.config.pruner, model.config.head
    reasons = {
        "scores that compare the tokens of a text": pruner.method in ("topk", "threshold"),
        "a first token that may die": not pruner.protect_first,
        "a protected segment": pruner.protect_until is not None,
        "a head that reads more than the first token": head.token_level or head.pools,
        "positions that attention reads": not encoder.learned_positions
        or any((encoder.rope, encoder.relative_bias, encoder.disentangled, encoder.local)),
    }
    problems = [f"the packed trial is not for {name}" for name, found in reasons.items() if found]
    if problems:
        raise InputError.listing("model", problems)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu.packed", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the record is written")
    p.add_argument(
        "--checkpoints", type=Path, default=DEMO, help="folder of dense, ltp, ... (default: the shipped ones)"
    )
    p.add_argument("--methods", default="dense,ltp,transkimmer", help="dense first (default dense,ltp,transkimmer)")
    p.add_argument("--precision", choices=["fp16", "bf16", "fp32"], default="fp16", help="(default fp16)")
    p.add_argument("--data", default="movie-reviews", help="texts that are timed (default movie-reviews)")
    p.add_argument("--batches", default="1,8,32,128", help="(default 1,8,32,128)")
    p.add_argument("--texts", type=int, default=384, help="texts that are timed (default 384)")
    p.add_argument("--rounds", type=int, default=3, help="times that every chunk is timed (default 3)")
    p.add_argument("--host", action="store_true", help="the rehearsal without a GPU")
    return p


def run(args: argparse.Namespace) -> int:
    """Compares, times, prints and writes. Raises InputError for a precision or a model that the trial does not have."""
    device = "cpu" if args.host else "cuda"
    if args.precision == "fp32" and not args.host:
        raise InputError("--precision fp32: flash attention has fp16 and bf16 alone; choose one of them")
    texts = [example.content for example in read_examples(args.data, "test")[: args.texts]]
    record: dict[str, Any] = {**versions(), **machine_record(), "precision": args.precision, "rehearsal": args.host}
    record |= {"texts": len(texts), "models": {}, "timings": []}
    models = {}
    for method in args.methods.split(","):
        subject = Subject.load(args.checkpoints / method, args.data, args.texts)
        encode = encoder_of(args.checkpoints / method, subject.model, subject.model.config.max_length)
        narrow = reference_in(subject.model, args.precision)
        expected = Reference.of(subject.model, encode(texts))
        models[method] = lambda batch, narrow=narrow, encode=encode: PackedModel(narrow, encode, batch, device)
        record["models"][method] = agreement(models[method](8), expected, texts)
    for batch in map(int, args.batches.split(",")):
        chunks = alternate({method: make(batch) for method, make in models.items()}, texts, args.rounds)
        record["timings"] += [{"model": m, "batch": batch, "seconds": sum(seconds)} for m, seconds in chunks.items()]
        args.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print("\n".join(table(record)))
    return 0


def agreement(packed: PackedModel, expected: Reference, texts: Sequence[Text]) -> dict[str, float]:
    """How far the logits are from PyTorch's on the CPU, and the share of texts with the same label."""
    found, wanted = np.stack(packed(texts)), torch.stack(expected.logits).numpy()
    same = (found.argmax(-1) == wanted.argmax(-1)).mean()
    return {"largest_difference": float(np.abs(found - wanted).max()), "same_labels": float(same)}


def table(record: dict[str, Any]) -> Iterator[str]:
    """Speed and ratio to the dense model, and how near the logits are."""
    seconds = {(t["model"], t["batch"]): t["seconds"] for t in record["timings"]}
    yield f"{'model':12} batch texts/s  x dense"
    for (model, batch), taken in seconds.items():
        dense = seconds.get(("dense", batch))
        yield f"{model:12} {batch:5} {record['texts'] / taken:7.0f} {f'{dense / taken:.2f}' if dense else '–':>8}"
    for model, found in record["models"].items():
        yield f"{model}: logits within {found['largest_difference']:.2g}, same labels {found['same_labels']:.3f}"


if __name__ == "__main__":
    main_of(parser, run)
