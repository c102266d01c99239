"""Small runs of the verb train."""

from __future__ import annotations

from pathlib import Path

from pipeline.training.setup import make_trainee
from tests.training.runs import make_config


def flags(data: Path, backbone: Path, *more: object) -> list[object]:
    return [
        *("--method", "ltp", "--data", data / "train.jsonl", "--dev-data", data / "dev.jsonl"),
        *("--backbone", backbone, "--out", data / "out", "--max-length", 16, "--batch-tokens", 128),
        *("--evaluations", 1, *more),
    ]


def save_dense(out: Path, backbone: Path, labels: list[str] | None, seed: int = 0) -> Path:
    """An untrained dense checkpoint of these classes, or of a regression."""
    make_trainee(make_config(backbone, "dense", seed=seed), labels).save(out)
    return out


def interrupted(*_: object) -> None:
    """Stands for a function in which the user presses Ctrl-C."""
    raise KeyboardInterrupt
