"""The examples of a training run, and the task that they are trained as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from calib.data import Data, Example, has_labels, label_names, read_data, relabelled, splits_of
from calib.held_out import hold_out
from calib.labels import are_amounts, is_number, refuse_no_classes
from calib.ranking import refuse_no_ranking
from calib.row import Columns
from calib.summary import oddities, summary
from calib.targets import KIND_OF, Answers, Labels, target_names
from engines.errors import InputError
from engines.head import HeadKind
from pipeline.model.checkpoint import read_config
from pipeline.model.config import HeadConfig
from pipeline.model.huggingface import locate_backbone, read_huggingface_config
from pipeline.training.config import TrainConfig


@dataclass(frozen=True)
class TrainingExamples:
    """Training and dev examples, and what is worth a look (`odd`).

    labels: the classes by index; None for a regression or ranking, whose labels are numbers.
    head:   where it is none of one class or one number for a text.
    """

    train: list[Example]
    dev: list[Example]
    labels: list[str] | None
    taken: Sequence[str]
    odd: Sequence[str]
    head: HeadConfig | None = None

    @classmethod
    def read(cls, config: TrainConfig) -> TrainingExamples:
        """Reads what the settings name. Raises InputError for data that no task can be trained on as it is."""
        columns = Columns.given(config.label, config.text, config.text_b)
        head = _head(config)
        data, dev_data, said = _sets(config, columns, config.task or (None if head is None else head.kind))
        dev_name = dev_data.name
        kind = _kind_of_targets(config, head, data)
        if kind is not None:
            return cls._with_targets(config, kind, head, data, dev_data, said)
        regression = _are_numbers(config, head, data)
        ranking = regression and "ranking" in (config.task, head and head.kind)
        if regression:
            _refuse_no_amounts(config, data)
            if ranking:
                for name, examples in ((config.data, data.examples), (dev_name, dev_data.examples)):
                    refuse_no_ranking(name, examples)
            labels, train, dev, odd = None, data.examples, dev_data.examples, []
        else:
            if has_labels(data.examples):
                refuse_no_classes([example.label for example in data.examples], config.data)
            labels = list(head.labels) if head is not None else _classes(config, data)
            train, assumed = relabelled(data.examples, labels)
            dev, assumed_of_dev = relabelled(dev_data.examples, labels)
            odd = [f"{config.data}: {assumed}"] if assumed else []
            odd += [f"{dev_name}: {assumed_of_dev}"] if assumed_of_dev else []
            if head is None and config.task is None and _are_whole_numbers(labels):
                odd.append(
                    f"{config.data}: its labels are whole numbers, taken as {len(labels)} classes; --task regression "
                    "takes them as amounts, --task classification says that they are classes"
                )
        train, dev = train[: config.limit], dev[: config.dev_limit]
        if config.limit is not None and not regression and has_labels(train):
            refuse_no_classes([example.label for example in train], f"{config.data} with --limit {config.limit}")
        for name, examples in ((config.data, train), (dev_name, dev)):
            odd += [f"{name}: {found}" for found in oddities(examples, regression)]
        known = {example.content for example in train}
        if shared := sum(example.content in known for example in dev):
            odd.append(f"{dev_name}: {shared} of its {len(dev)} texts are training texts, too")
        numbers: HeadKind | None = "ranking" if ranking else "regression" if regression else None
        taken = [summary(config.data, train, numbers), summary(dev_name, dev, numbers), *said]
        return cls(train, dev, labels, taken, odd)

    @classmethod
    def _with_targets(
        cls, config: TrainConfig, kind: HeadKind, head: HeadConfig | None, data: Data, dev_data: Data, said: list[str]
    ) -> TrainingExamples:
        """The examples of a head with more than one label for a text, or none."""
        if kind == "embedding":
            if head is None:
                raise InputError("--task embedding: name the embedder that it starts from with --init")
        else:
            for name, examples in ((config.data, data.examples), (dev_data.name, dev_data.examples)):
                others = [e for e in examples if e.target is None or KIND_OF[type(e.target)] != kind]
                if others:
                    raise InputError(f"{name}: expected the labels of a {kind} head in every row, found others")
        if head is None:
            targets = [example.target for example in data.examples if example.target is not None]
            if config.task is None and all(isinstance(t, Labels) and len(t.names) == 1 for t in targets):
                raise InputError(
                    f"{config.data}: its labels are lists, and every list has one label; write each as a text for "
                    "classes of which a text has one, or say --task multi_label"
                )
            no_answer = Answers(()) in targets
            head = HeadConfig(kind=kind, labels=target_names(targets), no_answer=no_answer)
        train, dev = data.examples[: config.limit], dev_data.examples[: config.dev_limit]
        taken = [summary(config.data, train), summary(dev_data.name, dev), *said]
        return cls(train, dev, list(head.labels), taken, [], head)


def _sets(config: TrainConfig, columns: Columns | None, kind: HeadKind | None) -> tuple[Data, Data, list[str]]:
    """The training set, the dev set, and what is said of how that was made.

    Texts without labels are taken where a model is there that can label them.
    """
    unlabelled = config.init is not None and config.label is None
    data = read_data(config.data, "train", columns=columns, unlabelled=unlabelled)
    if config.dev_data is not None or "dev" in splits_of(config.data):
        return data, read_data(config.dev_data or config.data, "dev", columns=columns, unlabelled=unlabelled), []
    train, dev = hold_out(data.examples, kind)
    if not dev:
        raise InputError(
            f"{config.data}: too few texts to hold some out for early stopping, found {len(train)}; give more, or "
            "others with --dev-data"
        )
    name = f"{config.data} (held out)"
    said = f"{name}: {len(dev)} of {len(data.examples)} rows, of every label alike, the same in every run"
    return replace(data, examples=train), Data(name, dev, data.classes), [said]


def _head(config: TrainConfig) -> HeadConfig | None:
    """The head that training goes on with; its classes, in their order, are those of the run."""
    if config.init is None:
        return None
    head = read_config(config.init).head
    if config.task is not None and config.task != head.kind:
        raise InputError(f"--task {config.task}: expected that of --init {config.init}, a {head.kind}")
    return head


def _kind_of_targets(config: TrainConfig, head: HeadConfig | None, data: Data) -> HeadKind | None:
    """The kind of head of a run, by --init, --task and the labels; None if a text gets one class or one number."""
    found = {KIND_OF[type(example.target)] for example in data.examples if example.target is not None}
    kind = config.task or (head.kind if head is not None else next(iter(found), None))
    if kind == "embedding" or kind in KIND_OF.values():
        return kind
    if found:
        raise InputError(f"{config.data}: expected one label for each text, found those of a {found.pop()} head")
    return None


def _are_numbers(config: TrainConfig, head: HeadConfig | None, data: Data) -> bool:
    if head is not None and (head.kind == "classification" or head.one_value):
        return head.one_value
    if config.task is not None:
        return config.task in ("regression", "ranking")
    return are_amounts(example.label for example in data.examples)


def _refuse_no_amounts(config: TrainConfig, data: Data) -> None:
    labels = {example.label for example in data.examples} - {""}
    if len(labels) == 1 and all(map(is_number, labels)):
        raise InputError(f"{config.data}: expected amounts that differ, found only {next(iter(labels))} in all rows")


def _classes(config: TrainConfig, data: Data) -> list[str]:
    """In the order that the file or the backbone gives them, if one does, and otherwise sorted."""
    found = label_names(data.examples)
    for given in (data.classes, _backbone_labels(config)):
        if set(found) == set(given) or (given is data.classes and set(found) < set(given)):
            return list(given)
    return found


def _backbone_labels(config: TrainConfig) -> Sequence[str]:
    """The classes of a backbone that has a head, as a model that was trained on another set of the same task has."""
    assert config.backbone is not None
    try:
        return read_huggingface_config(locate_backbone(config.backbone)).head.labels
    except InputError:
        return ()  # of another task: its head is replaced


def _are_whole_numbers(labels: Sequence[str]) -> bool:
    return len(labels) > 2 and all(is_number(label) and float(label).is_integer() for label in labels)
