"""The texts to train on, to stop by and to check with; what is not given is held out."""

from __future__ import annotations

import argparse
from typing import Any

from calib.data import Data, read_data, relabelled, splits_of
from calib.held_out import hold_out
from calib.row import Columns
from calib.texts import FEWEST
from engines.errors import InputError
from pipeline.model.config import CheckpointConfig

PARTS = ("train", "dev", "test")


def read_sets(args: argparse.Namespace, columns: Columns | None, config: CheckpointConfig) -> dict[str, Data]:
    """The three sets, with labels as the model calls them. Raises InputError."""

    def read(name: str, split: Any) -> Data:
        return read_data(name, split, columns=columns, unlabelled=args.label is None)

    sets = {"train": read(args.data, "train")}
    for name, given in (("test", args.test_data), ("dev", args.dev_data)):
        if given is not None or name in splits_of(args.data):
            sets[name] = read(given or args.data, name)
            continue
        rest, held = hold_out(sets["train"].examples, config.head.kind)
        if not held:
            raise InputError(f"{args.data}: too few texts to hold some out, found {len(rest)}; give more of them")
        sets["train"], sets[name] = Data(args.data, rest), Data(args.data, held)
    labels = config.head.labels
    return {name: Data(data.name, relabelled(data.examples, labels)[0]) for name, data in sets.items()}


def calibration_of(sets: dict[str, Data]) -> str | None:
    """The set that costs and INT8's ranges are measured on: the dev texts, or those to train on if they are few."""
    return next((name for name in ("dev", "train") if len(sets[name].examples) >= FEWEST), None)
