"""Task metrics of a set of answers, and the drop from one to another in points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from calib.correlation import pearson, spearman
from calib.data import Example, is_number
from calib.overlap import answer_f1, exact_match, macro_f1, micro_f1
from calib.ranking import ndcg, queries_of
from calib.targets import KIND_OF, Answers, Labels, Spans, target_names
from engines.answering import answers_of
from engines.entities import entities_of
from engines.head import Head, HeadKind
from engines.prediction import cut_logits, softmax
from engines.reading import PLAIN
from engines.tokenization import Tokens

_Logits = Sequence[np.ndarray]


@dataclass(frozen=True)
class _Answered:
    """Answers to examples, with all that a metric may need."""

    head: Head
    logits: _Logits
    examples: Sequence[Example]
    samples: Sequence[Tokens]
    against: _Logits


def measure(
    head: Head,
    logits: _Logits,
    examples: Sequence[Example],
    samples: Sequence[Tokens] = (),
    against: _Logits | None = None,
) -> dict[str, float]:
    """The figures of a task's metric by name, the one that counts first; NaN where one means nothing.

    samples: the tokens with their origins, for a head that answers for tokens.
    against: the embeddings that those of an embedding head are to agree with; None: themselves.
    """
    return _MEASURES[head.kind](_Answered(head, logits, examples, samples, logits if against is None else against))


def accuracy(
    head: Head,
    logits: _Logits,
    examples: Sequence[Example],
    samples: Sequence[Tokens] = (),
    against: _Logits | None = None,
) -> float:
    """The figure of `measure` that counts, such as the share of right labels."""
    return next(iter(measure(head, logits, examples, samples, against).values()))


def labelled(head: Head, examples: Sequence[Example]) -> bool:
    """Whether the labels are such as the head gives, so that a metric means something; an embedding needs none."""
    if head.kind == "embedding":
        return True
    targets = [example.target for example in examples]
    if head.kind in KIND_OF.values():
        if any(target is None or KIND_OF[type(target)] != head.kind for target in targets):
            return False
        return set(target_names(target for target in targets if target is not None)) <= set(head.labels)
    if any(target is not None for target in targets):
        return False
    if head.one_value:
        return all(is_number(example.label) for example in examples)
    return {example.label for example in examples} <= set(head.labels)


def drop_points(dense: float, ours: float) -> float:
    """Returns the drop of a metric in points. 0.879 - 0.869 is exactly 1, though a little more in binary."""
    return round(100 * (dense - ours), 9)


def _classes(given: _Answered) -> dict[str, float]:
    right = [given.head.labels[int(x.argmax())] == e.label for x, e in zip(given.logits, given.examples, strict=True)]
    return {"accuracy": sum(right) / len(right)}


def _values(given: _Answered) -> dict[str, float]:
    ours, theirs = [float(x[0]) for x in given.logits], [float(example.label) for example in given.examples]
    return {"pearson": pearson(ours, theirs), "spearman": spearman(ours, theirs)}


def _ranking(given: _Answered) -> dict[str, float]:
    ours, theirs = [float(x[0]) for x in given.logits], [float(example.label) for example in given.examples]
    return {"ndcg": ndcg(ours, theirs, queries_of(given.examples))}


def _many(given: _Answered) -> dict[str, float]:
    cuts, labels = np.array(cut_logits(given.head)), given.head.labels
    found = [[labels[n] for n in np.flatnonzero(x >= cuts)] for x in given.logits]
    wanted = [target.names for example in given.examples if isinstance(target := example.target, Labels)]
    return {"micro_f1": micro_f1(found, wanted), "macro_f1": macro_f1(found, wanted, labels)}


def _agreement(given: _Answered) -> dict[str, float]:
    cosines = [
        float(a @ b) / max(1e-12, float(np.linalg.norm(a)) * float(np.linalg.norm(b)))
        for a, b in zip(given.logits, given.against, strict=True)
    ]
    return {"cosine": float(np.mean(cosines)), "least_cosine": min(cosines)}


def _entities(given: _Answered) -> dict[str, float]:
    found = []
    for logits, sample in zip(given.logits, given.samples, strict=True):
        assert sample.origin is not None
        entities = entities_of(softmax(logits, -1), given.head.labels, sample.origin, "first")
        found.append([(entity.start, entity.end, entity.label) for entity in entities if entity.part == 0])
    wanted = [target.spans for example in given.examples if isinstance(target := example.target, Spans)]
    return {"entity_f1": micro_f1(found, wanted)}


def _answers(given: _Answered) -> dict[str, float]:
    exact, shared = [], []
    for logits, sample, example in zip(given.logits, given.samples, given.examples, strict=True):
        assert sample.origin is not None and isinstance(example.target, Answers)
        (best,) = answers_of(logits, sample.origin, 1, PLAIN.max_answer, given.head.no_answer)
        wanted = [answer for _, answer in example.target.spans]
        exact.append(exact_match(best.text, wanted))
        shared.append(answer_f1(best.text, wanted))
    return {"f1": float(np.mean(shared)), "exact_match": float(np.mean(exact))}


_MEASURES: dict[HeadKind, Callable[[_Answered], dict[str, float]]] = {
    "classification": _classes,
    "multi_label": _many,
    "regression": _values,
    "ranking": _ranking,
    "embedding": _agreement,
    "question_answering": _answers,
    "tagging": _entities,
}
METRICS: dict[HeadKind, str] = {
    "classification": "accuracy",
    "multi_label": "micro F1",
    "regression": "Pearson",
    "ranking": "nDCG@10",
    "embedding": "cosine",
    "question_answering": "F1",
    "tagging": "entity F1",
}
"""The figure of `measure` that counts, as people call it."""
JUDGED: dict[HeadKind, tuple[str, ...]] = {"regression": ("pearson", "spearman")}
"""The figures that gate 4 holds to the budget, where that is not the first one alone."""
