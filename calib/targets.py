"""Labels that are more than one name: many labels of a text, spans in it, answers in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from calib.labels import listed, read_label, refuse_alike
from engines.entities import OUTSIDE, split_tag
from engines.errors import InputError
from engines.head import HeadKind
from engines.tokenization import text_problem

_FORMS = (
    'expected a list of labels, of spans such as {"start": 0, "end": 4, "label": "PER"}, or answers such as '
    '{"text": ["in Rome"], "answer_start": [12]}'
)


@dataclass(frozen=True)
class Labels:
    """The labels of a text, in the order of the file; perhaps none."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Spans:
    """Labelled pieces of a text: (first character, the one behind the last, label), in order."""

    spans: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True)
class Answers:
    """The answers that a question has in its text: (first character, text); none where it has no answer."""

    spans: tuple[tuple[int, str], ...]


Target = Labels | Spans | Answers

KIND_OF: Mapping[type, HeadKind] = {Labels: "multi_label", Spans: "tagging", Answers: "question_answering"}
"""The head that learns from a target."""


def is_target(label: object) -> bool:
    """Whether a label of a file is a target, and no single label."""
    return isinstance(label, list | tuple | dict)


def read_target(label: object, text: str, context: str) -> Target:
    """The target that a label of a file is; spans lie in `text`, answers in `context`. Raises ValueError.

    An empty list is `Labels`, see `of_one_kind`.
    """
    if isinstance(label, dict):
        if not {"text", "answer_start"} <= label.keys():
            raise ValueError(f"{_FORMS}, found an object with the keys {', '.join(map(str, label))}")
        texts, starts = (
            value if isinstance(value, list) else [value] for value in (label["text"], label["answer_start"])
        )
        if len(texts) != len(starts):
            raise ValueError(f"expected a start for every answer, found {len(starts)} for {len(texts)}")
        return Answers(tuple(_answer(start, answer, context) for start, answer in zip(starts, texts, strict=True)))
    assert isinstance(label, list | tuple)
    if label and all(isinstance(entry, dict) and "answer_start" in entry for entry in label):
        return Answers(tuple(_answer(entry.get("answer_start"), entry.get("text"), context) for entry in label))
    if any(isinstance(entry, dict | list | tuple) for entry in label):
        return Spans(tuple(sorted(_span(entry, text) for entry in label)))
    return Labels(tuple(dict.fromkeys(read_label(entry) for entry in label)))


def read_words(words: Sequence[object], tags: object) -> tuple[str, Spans]:
    """A text of words, a blank between them, and the spans that their tags mark. Raises ValueError."""
    if not all(isinstance(word, str) and word.strip() for word in words) or not words:
        raise ValueError(f"expected a text, or a list of words, found {list(words)!r:.80}")
    if not isinstance(tags, list | tuple) or len(tags) != len(words) or not all(isinstance(t, str) for t in tags):
        raise ValueError(f"expected a tag such as B-PER for each of {len(words)} words, found {tags!r:.80}")
    text = " ".join(map(str, words))
    for read in (text, " ".join(tags)):
        if (problem := text_problem(read)) is not None:
            raise ValueError(problem)
    spans: list[tuple[int, int, str]] = []
    start, before = 0, OUTSIDE
    for word, tag in zip(map(str, words), tags, strict=True):
        begins, label = split_tag(tag)
        if tag != OUTSIDE and (begins or label != before):
            spans.append((start, start + len(word), label))
        elif tag != OUTSIDE:
            spans[-1] = (spans[-1][0], start + len(word), label)
        start, before = start + len(word) + 1, label
    return text, Spans(tuple(spans))


def of_one_kind(source: str, targets: Sequence[Target | None], locations: Sequence[str]) -> list[Target]:
    """The targets of a file's rows, which lie at `locations`; an empty list is what the others are.

    Raises InputError where they differ in kind, where a row has a single label, and for labels that are written alike.
    """
    single = [location for target, location in zip(targets, locations, strict=True) if target is None]
    if single:
        raise InputError(
            f"{source}: expected a list of labels in every row, as in others, found one label in {single[0]}; write "
            '["a"] for a single one'
        )
    known = [target for target in targets if target is not None]
    kinds = {type(target) for target in known if target != Labels(())}
    if len(kinds) > 1:
        found = " and ".join(sorted(KIND_OF[kind] for kind in kinds))
        raise InputError(f"{source}: expected one kind of labels, found those of {found}")
    empty: Target = Spans(()) if kinds == {Spans} else Answers(()) if kinds == {Answers} else Labels(())
    where: dict[str, list[str]] = {}
    for target, location in zip(known, locations, strict=True):
        for name in target.names if isinstance(target, Labels) else ():
            where.setdefault(name, []).append(location)
    refuse_alike(where, source)
    return [empty if target == Labels(()) else target for target in known]


def target_names(targets: Iterable[Target]) -> list[str]:
    """The labels of a new model that learns from these: of spans the tags that mark them."""
    targets = list(targets)
    if any(isinstance(target, Answers) for target in targets):
        return ["start", "end"]
    spans = sorted({label for target in targets if isinstance(target, Spans) for _, _, label in target.spans})
    if any(isinstance(target, Spans) for target in targets):
        return [OUTSIDE, *(f"{mark}-{label}" for label in spans for mark in "BI")]
    return sorted({name for target in targets if isinstance(target, Labels) for name in target.names})


def described(targets: Sequence[Target]) -> str:
    """What the targets of a file are, with the number of texts that each label has, in words."""
    if any(isinstance(target, Answers) for target in targets):
        none = sum(target == Answers(()) for target in targets)
        return f"questions, {none} of them without an answer"
    named = [
        [n for _, _, n in t.spans] if isinstance(t, Spans) else t.names for t in targets if not isinstance(t, Answers)
    ]
    counts = Counter(name for names in named for name in names)
    kind = "entities" if any(isinstance(target, Spans) for target in targets) else "several labels a text"
    return f"{kind}: {listed([f'{name} ({count})' for name, count in counts.most_common()]) or 'none'}"


def _span(entry: object, text: str) -> tuple[int, int, str]:
    fields = [entry.get(name) for name in ("start", "end", "label")] if isinstance(entry, dict) else entry
    if not isinstance(fields, list | tuple) or len(fields) != 3:
        raise ValueError(f"expected a start, an end and a label, found {entry!r:.80}")
    start, end, label = fields
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end <= len(text):
        raise ValueError(f"expected a span within the {len(text)} characters of the text, found {entry!r:.80}")
    return start, end, read_label(label)


def _answer(start: object, answer: object, text: str) -> tuple[int, str]:
    if not isinstance(start, int) or not isinstance(answer, str):
        raise ValueError(f"expected an answer and its first character, found {answer!r:.80} and {start!r:.20}")
    if not answer or text[start : start + len(answer)] != answer:
        found = text[max(0, start) : max(0, start) + len(answer)]
        raise ValueError(f"expected the answer {answer!r:.80} at character {start}, found {found!r:.80}")
    return start, answer
