"""What a build says about its data before work starts."""

from __future__ import annotations

from pathlib import Path

from calib.data import Example
from pipeline.builder.subject import Subject
from tests.gates.builds import classifier


def test_what_was_taken_is_said(tiny_tokenizer: Path) -> None:
    built = classifier(tiny_tokenizer)
    subject = Subject.load(built.checkpoint, str(built.data), 4)
    names = subject.model.config.head.labels

    def said(labels: list[str]) -> list[str]:
        examples = [Example(f"w{n}", labels[n % len(labels)]) for n in range(4 * len(labels))]
        return Subject.of(built.checkpoint, subject.model, "data", examples).report()

    (taken,) = said(names)
    classes = ", ".join(f"{name} (4)" for name in names)
    assert taken.startswith(f"data  data: {4 * len(names)} rows, classification of {len(names)} classes: {classes}; ")
    assert said([str(index) for index in range(len(names))]) == [
        taken,
        "WARNING: data: its labels are taken as the model's classes by index: "
        + ", ".join(f"{index} is {name}" for index, name in enumerate(names)),
    ]
    *_, unknown = said(["good", "ugly"])
    assert unknown == f"WARNING: data: its labels are not the model's, {', '.join(names)}: no accuracy is measured"
