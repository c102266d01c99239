"""What was taken from data, said before work starts, and what is odd about it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean, median

from calib.data import Example, has_labels
from calib.labels import listed
from calib.ranking import queries_of
from calib.targets import described
from engines.head import HeadKind


def summary(name: str, examples: Sequence[Example], numbers: HeadKind | None = None) -> str:
    """One line: rows, the task with its classes and their counts or the range of its values, and lengths.

    numbers: the head whose labels are numbers, regression or ranking; None: they are none.
    """
    pairs = sum(example.text_b is not None for example in examples)
    lengths = [len(example.text) + len(example.text_b or "") for example in examples]
    kind = "" if not pairs else " pairs" if pairs == len(examples) else f" ({pairs} of them pairs)"
    return (
        f"{name}: {len(examples)} rows{kind}, {_task(examples, numbers)}; "
        f"{min(lengths)} to {max(lengths)} characters, {median(lengths):.0f} at the median"
    )


def oddities(examples: Sequence[Example], regression: bool) -> list[str]:
    """What can be meant, but seldom is."""
    if not any(example.label for example in examples):
        return []
    oddities = []
    counts = Counter(example.label for example in examples)
    if len(counts) == 1:
        oddities.append(f"only one label, {next(iter(counts))!r}, in all rows")
    if not regression:
        rare = sorted(label for label, count in counts.items() if count == 1)
        if rare and len(examples) > 2 * len(counts):
            oddities.append(f"classes of one row: {listed(rare)}")
        labels = defaultdict(set)
        for example in examples:
            labels[example.content].add(example.label)
        if twice := sum(len(given) > 1 for given in labels.values()):
            oddities.append(f"{twice} texts stand in several rows, with different labels")
    return oddities


def _task(examples: Sequence[Example], numbers: HeadKind | None) -> str:
    if not has_labels(examples):
        return "without labels"
    if targets := [example.target for example in examples if example.target is not None]:
        return described(targets)
    return _classes(examples) if numbers is None else _values(examples, numbers)


def _classes(examples: Sequence[Example]) -> str:
    counts = Counter(example.label for example in examples)
    return f"classification of {len(counts)} classes: " + listed(
        [f"{n} ({count})" for n, count in counts.most_common()]
    )


def _values(examples: Sequence[Example], numbers: HeadKind) -> str:
    values = [float(example.label) for example in examples]
    queries = f"ranking for {len(set(queries_of(examples)))} queries, relevance"
    task = queries if numbers == "ranking" else "regression of values"
    return f"{task} from {min(values):g} to {max(values):g}, mean {fmean(values):.4g}"
