"""The examples of a training run, and the task that they are trained as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calib.data import NAMED_SETS, Data, Example, label_names, read_data, relabelled
from calib.labels import are_amounts, is_number, refuse_no_classes
from calib.ranking import refuse_no_ranking
from calib.row import Columns
from calib.summary import oddities, summary
from engines.errors import InputError
from pipeline.model.checkpoint import CONFIG_NAME, read_config
from pipeline.model.config import HeadConfig
from pipeline.model.huggingface import locate_backbone, read_huggingface_config
from pipeline.training.config import TrainConfig


@dataclass(frozen=True)
class TrainingExamples:
    """Training and dev examples, and what is worth a look (`odd`).

    labels: the classes by index; None for a regression or ranking, whose labels are numbers.
    """

    train: list[Example]
    dev: list[Example]
    labels: list[str] | None
    taken: Sequence[str]
    odd: Sequence[str]

    @classmethod
    def read(cls, config: TrainConfig) -> TrainingExamples:
        """Reads what the settings name. Raises InputError for data that no task can be trained on as it is."""
        columns = Columns.given(config.label, config.text, config.text_b)
        data = read_data(config.data, "train", columns=columns)
        if config.data not in NAMED_SETS and config.dev_data is None:
            raise InputError("--dev-data is needed with a local file: early stopping must not look at training data")
        dev_name = config.dev_data or config.data
        dev_data = read_data(dev_name, "dev", columns=columns)
        head = _head(config)
        regression = _are_numbers(config, head, data)
        if regression:
            _refuse_no_amounts(config, data)
            if "ranking" in (config.task, head and head.kind):
                for name, examples in ((config.data, data.examples), (dev_name, dev_data.examples)):
                    refuse_no_ranking(name, examples)
            labels, train, dev, odd = None, data.examples, dev_data.examples, []
        else:
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
        if config.limit is not None and not regression:
            refuse_no_classes([example.label for example in train], f"{config.data} with --limit {config.limit}")
        for name, examples in ((config.data, train), (dev_name, dev)):
            odd += [f"{name}: {found}" for found in oddities(examples, regression)]
        known = {example.content for example in train}
        if shared := sum(example.content in known for example in dev):
            odd.append(f"{dev_name}: {shared} of its {len(dev)} texts are training texts, too")
        taken = [summary(config.data, train, regression), summary(dev_name, dev, regression)]
        return cls(train, dev, labels, taken, odd)


def _head(config: TrainConfig) -> HeadConfig | None:
    """The head that training goes on with; its classes, in their order, are those of the run."""
    if config.init is None or not (Path(config.init) / CONFIG_NAME).is_file():
        return None
    head = read_config(config.init).head
    if config.task is not None and config.task != head.kind:
        raise InputError(f"--task {config.task}: expected that of --init {config.init}, a {head.kind}")
    return head


def _are_numbers(config: TrainConfig, head: HeadConfig | None, data: Data) -> bool:
    if head is not None and (head.kind == "classification" or head.one_value):
        return head.one_value
    if config.task is not None:
        return config.task in ("regression", "ranking")
    return are_amounts(example.label for example in data.examples)


def _refuse_no_amounts(config: TrainConfig, data: Data) -> None:
    labels = {example.label for example in data.examples}
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
