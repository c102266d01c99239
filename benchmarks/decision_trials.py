"""Two changes to LTP's decisions that were tried: thresholds that know the length, and one row for all dropped ones.

python -m benchmarks.decision_trials --json benchmarks/results/decision-trials.json
python -m benchmarks.decision_trials --table benchmarks/results/decision-trials.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import MethodType

import torch
from torch import Tensor

from benchmarks.records import add_record_flags, printed, require_json, write_record
from calib.data import examples_digest, read_examples, relabelled
from engines.machine import machine_record
from engines.tokenization import Tokens
from pipeline.builder.config import DEMO
from pipeline.builder.subject import encoder_of, tokens_of
from pipeline.cli import main_of
from pipeline.model import PrunedTransformer, load_checkpoint
from pipeline.model.pruners import LtpPruner
from pipeline.model.transformer import State
from pipeline.report.markdown import table
from pipeline.training.batches import TokenisedSet
from pipeline.training.evaluation import evaluate, ratio_on
from pipeline.training.reach_ratio import reach_ratio

RATIOS = (2.15, 3.0, 4.0)
EXPONENTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""A threshold is divided by the length, in reference lengths, to this power; 0 is LTP's own."""
_CALIBRATION, _TOKENS, _SURE = 200, 4096, 1e3
"""Texts that thresholds are moved on, padded tokens of a batch, and a score that no threshold is above."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.decision_trials", description=(__doc__ or "").split("\n")[0])
    add_record_flags(p)
    return p


def run(args: argparse.Namespace) -> int:
    """Evaluates every change at every ratio, writes the record and prints its table."""
    if printed(args, table_of):
        return 0
    require_json(args)
    dev, rows = read_examples("movie-reviews", "dev"), list[dict]()
    ways: dict[str, Callable[[PrunedTransformer], None]] = {
        f"threshold over length to the power {power:g}": partial(know_length, power=power) for power in EXPONENTS
    }
    ways["a row for the mean of the dropped ones"] = carry_mean
    for way, change in ways.items():
        for ratio in RATIOS:
            model = changed(change, ratio)
            labelled, _ = relabelled(dev, model.config.head.labels)
            encode, pad = encoder_of(DEMO / "ltp", model), model.config.encoder.pad_token_id
            found = evaluate(model, TokenisedSet(labelled, encode, model.config.head.labels, pad), _TOKENS)
            figures = {"accuracy": round(found.metric, 4), "flops_ratio": round(found.flops_ratio, 3)}
            rows.append({"way": way, "asked": ratio, **figures})
            print(rows[-1], flush=True)
    data = {"texts": len(dev), "digest": examples_digest(dev)}
    write_record(args.json, {**machine_record(), "data": data, "rows": rows})
    return 0


def changed(change: Callable[[PrunedTransformer], None], ratio: float) -> PrunedTransformer:
    """The demo's LTP model with a change, its thresholds moved to a FLOPs ratio; weights stay."""
    model = load_checkpoint(DEMO / "ltp")
    assert isinstance(model.pruner, LtpPruner)
    model.pruner.learn()
    change(model)
    reach_ratio(model.pruner, ratio, ratio_on(model, _samples(model)))
    return model


def know_length(model: PrunedTransformer, power: float) -> None:
    """Compares scores with a threshold that depends on the number of tokens."""
    longest = model.config.max_length

    def score(pruner: LtpPruner, layer: int, hidden: Tensor, mass: Tensor | None, alive: Tensor) -> Tensor:
        assert mass is not None
        length = alive.float().sum(-1, keepdim=True).clamp_min(1)
        return mass / pruner.normaliser * (length / longest) ** power

    model.pruner.score = MethodType(score, model.pruner)  # type: ignore[method-assign]


def carry_mean(model: PrunedTransformer) -> None:
    """Lets the first row that a decision drops go on, as the mean of all that it drops."""
    compact = model.decide_compacted

    def decide(_: PrunedTransformer, layer: int, score: Tensor, state: State) -> State:
        gone = (state.alive > 0) & (score < model.pruner.threshold(layer))
        gone[:, 0] = False  # the head reads it, so it stays
        mean = (gone[:, :, None] * state.hidden).sum(1) / gone.sum(1, keepdim=True).clamp_min(1)
        first = gone & (gone.cumsum(1) == 1)
        hidden = torch.where(first[:, :, None], mean[:, None], state.hidden)
        return compact(layer, score.masked_fill(first, _SURE), replace(state, hidden=hidden))

    model.decide_compacted = MethodType(decide, model)  # type: ignore[method-assign]


def _samples(model: PrunedTransformer) -> Sequence[Tokens]:
    return tokens_of(DEMO / "ltp", model, read_examples("movie-reviews", "train")[:_CALIBRATION])


def table_of(record: dict) -> str:
    """Accuracies as Markdown."""
    by_way: dict[str, list[str]] = {}
    for row in record["rows"]:
        by_way.setdefault(row["way"], []).append(f"{row['accuracy']:.4f} at {row['flops_ratio']:.2f}x")
    note = (
        f"The demo's LTP model, not trained further; accuracy and FLOPs ratio on {record['data']['texts']:,} dev "
        f"reviews, certain to about a point. {record['machine']['processor']}."
    )
    head = ("decision", *(f"asked {ratio:g}x" for ratio in RATIOS))
    return table(head, [(way, *cells) for way, cells in by_way.items()], note)


if __name__ == "__main__":
    main_of(parser, run)
