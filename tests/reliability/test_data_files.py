"""Malformed files of texts and labels: every verb that reads them answers, trains or refuses, and says why."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pyarrow
import pyarrow.parquet
import pytest

from pipeline import build, run, train
from pipeline.builder import steps
from tests.engines.toy import Toy
from tests.gates.builds import classifier
from tests.reliability.json_edits import ODD
from tests.reliability.outcome import Outcome, outcome_of
from tests.reliability.spoil import clear, displace, spoiled
from tests.reliability.trials import Trials

LABELS = ("no", "maybe", "yes")
ODD_LABELS = (*ODD, "yes ", "YES", "1", "0.0", 1.5, 2, "nan", ["yes", "no"], {"a": 1}, 10**400, "a\tb", 'a"b')
ODD_TEXTS = (
    *ODD,
    "w5\rw6",
    "w5\x00w6",
    "w5\nw6",
    '"w5',
    'w5"w6"',
    "w5\tw6",
    "w5,w6",
    "\u2028",
    5,
    ["w5"],
    "w5 " * 3000,
)
ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")


def rows_of(generator: random.Random) -> list[dict[str, Any]]:
    """Rows, of which some hold what is odd."""
    rows: list[dict[str, Any]] = [
        {
            "label": LABELS[i % 3],
            "text": " ".join(f"w{generator.randrange(4, 60)}" for _ in range(generator.randint(1, 9))),
        }
        for i in range(24)
    ]
    if generator.random() < 0.3:
        for row in rows:
            row["text_b"] = "w5 w6"
    if generator.random() < 0.6:
        column, odd = generator.choice([("label", ODD_LABELS), ("text", ODD_TEXTS), ("text_b", ODD_TEXTS)])
        value: Any = generator.choice(odd)
        for row in generator.sample(rows, generator.choice([1, 1, 12, 24])):
            row[column] = value
    if generator.random() < 0.1:
        for row in rows:
            row[generator.choice(["Label", "sentence", "label ", ""])] = row.pop("label")
    return rows


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """Where one table cannot hold such values, of their representations."""
    file = io.BytesIO()
    try:
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, file)
    except (pyarrow.ArrowException, OverflowError, TypeError, UnicodeEncodeError):
        table = pyarrow.Table.from_pylist([{name: repr(value) for name, value in row.items()} for row in rows])
        pyarrow.parquet.write_table(table, file)
    return file.getvalue()


def content_of(rows: list[dict[str, Any]], ending: str) -> bytes:
    """The rows as a program that knows the format writes them, but for what it would refuse."""
    if ending == ".parquet":
        return parquet(rows)
    if ending == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if ending == ".txt":
        return "".join(f"{row.get('text')}\n" for row in rows).encode(errors="surrogatepass")
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    if ending == ".csv":
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.write("".join("\t".join(str(row.get(name, "")) for name in names) + "\n" for row in rows))
    return text.getvalue().encode(errors="surrogatepass")


def malformed(folder: Path, generator: random.Random) -> tuple[Path, str]:
    """A file that is likely to be wrong, and what is."""
    ending = generator.choice(ENDINGS)
    path = folder / f"rows{ending}"
    content, said = content_of(rows_of(generator), ending), "its values"
    for _ in range(generator.choice([0, 1, 1, 2])):
        content, said = spoiled(content, generator)
    if generator.random() < 0.05:
        path = path.with_suffix(generator.choice(ENDINGS))
        said = f"a {ending} file of another name"
    clear(path)
    path.write_bytes(content)
    if generator.random() < 0.05:
        said = displace(path, generator)
    return path, f"{path.name}: {said}"


def read_enough(*arguments: object, **named: object) -> NoReturn:
    """Ends a verb that has read its data, before the work starts."""
    raise SystemExit(0)


Verbs = dict[str, Callable[[Path], Outcome]]


@pytest.fixture
def verbs(tiny_tokenizer: Path, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verbs:
    """All that reads a file of texts, up to where its work starts."""
    built, toy = classifier(tiny_tokenizer), Toy().write(tmp_path / "toy", tiny_tokenizer)
    monkeypatch.setattr(train, "make_progress", read_enough)
    monkeypatch.setattr(steps, "plan", read_enough)
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path / "cache"))
    training = ("--method", "dense", "--max-length", 16, "--backbone", tiny_backbone, "--out", tmp_path / "run")
    building = ("--checkpoint", built.checkpoint, "--out", tmp_path / "out", "--samples", 4, "--buckets", "1x32")
    int8 = ("--data", built.data, "--precision", "int8")
    return {
        "run": lambda path: outcome_of(run, toy, "--input", path, "--provider", "onnxruntime", "--truncate"),
        "train": lambda path: outcome_of(train, *training, "--data", path, "--dev-data", path),
        "build": lambda path: outcome_of(build, *building, "--data", path),
        "calibration": lambda path: outcome_of(build, *building, *int8, "--calibration", path),
    }


@pytest.mark.parametrize("trials", Trials.of("malformed data files", 300, sample=20), indirect=True)
def test_a_malformed_file_of_texts_is_read_or_refused(trials: Trials, verbs: Verbs, tmp_path: Path) -> None:
    for _ in range(trials.count):
        path, said = malformed(tmp_path, trials.generator)
        trials.begin(said)
        for name, verb in verbs.items():
            if name == "run" and path.is_fifo():
                continue  # which may be read, as soon as somebody writes
            found = verb(path)
            trials.expect(f"{name}: {'refused' if found.code == 2 else 'read'}", found.problem)
            if found.code == 2 and path.name not in found.error:
                trials.expect("", f"{name}: an error without the file's name: {found.error[:200]}")
            if name == "run" and found.code in (0, 1) and path.suffix in (".txt", ".jsonl"):
                lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
                answered = len(found.out.splitlines()) + found.error.count("\n")
                if answered < len(lines):
                    trials.expect("", f"{len(lines)} lines and {answered} answers")
        clear(path)
    trials.end()
