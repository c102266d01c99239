"""Parquet files and directories of Hugging Face's datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from calib.data import read_data, splits_of
from calib.row import Columns
from calib.targets import Spans
from engines.errors import InputError, TargetError

CLASSES = {"names": ["neg", "pos"], "_type": "ClassLabel"}
FEATURES = {"label": CLASSES, "text": {"dtype": "string", "_type": "Value"}}
ROWS = [{"label": 1, "text": "a film"}, {"label": 0, "text": "a bore"}, {"label": 1, "text": "again"}]


def described(rows: list[dict[str, Any]], features: dict[str, Any] | None) -> pyarrow.Table:
    """A table as datasets describes it: with its features in the schema."""
    table = pyarrow.Table.from_pylist(rows)
    return (
        table
        if features is None
        else table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    )


def save(folder: Path, rows: list[dict[str, Any]], features: dict[str, Any] | None = FEATURES, files: int = 2) -> Path:
    """What `Dataset.save_to_disk` writes: Arrow streams and their names."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{files:05}.arrow" for number in range(files)]
    table, share = described(rows, features), -(-len(rows) // files)
    for number, name in enumerate(names):
        part = table.slice(number * share, share)
        with pyarrow.OSFile(str(folder / name), "wb") as sink, pyarrow.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def save_splits(folder: Path, *splits: str) -> Path:
    """What `DatasetDict.save_to_disk` writes."""
    for split in splits:
        save(folder / split, [{"label": n % 2, "text": f"{split} {n}"} for n in range(4)])
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def test_a_saved_set_is_read_with_the_names_of_its_classes(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(described(ROWS, FEATURES), tmp_path / "data.parquet")
    for path in (save(tmp_path / "set", ROWS), tmp_path / "data.parquet"):
        data = read_data(str(path))
        assert [(e.label, e.text) for e in data.examples] == [("pos", "a film"), ("neg", "a bore"), ("pos", "again")]
        assert data.classes == ["neg", "pos"] and splits_of(str(path)) == []


def test_classes_that_nobody_names_are_numbers_and_minus_one_is_none(tmp_path: Path) -> None:
    assert [e.label for e in read_data(str(save(tmp_path / "bare", ROWS, None))).examples] == ["1", "0", "1"]
    hidden = save(tmp_path / "hidden", [{**row, "label": -1} for row in ROWS])
    assert {e.label for e in read_data(str(hidden), unlabelled=True).examples} == {""}
    with pytest.raises(InputError, match="expected a label"):
        read_data(str(hidden))


def test_splits_go_by_their_usual_names(tmp_path: Path) -> None:
    folder = save_splits(tmp_path / "three", "train", "validation", "test")
    assert splits_of(str(folder)) == ["train", "dev", "test"]
    for split, first in (("train", "train 0"), ("dev", "validation 0"), ("test", "test 0")):
        assert read_data(str(folder), split).examples[0].text == first  # type: ignore[arg-type]
    two = save_splits(tmp_path / "two", "train", "validation")
    assert splits_of(str(two)) == ["train", "dev"]
    assert read_data(str(two), "test").examples[0].text == "validation 0"
    with pytest.raises(InputError, match=r"expected a split to be named, found train, validation; name one"):
        read_data(str(two))


def test_columns_are_named_and_tags_are_lists_of_classes(tmp_path: Path) -> None:
    tags = {"feature": {"names": ["O", "B-PER"], "_type": "ClassLabel"}, "_type": "List"}
    rows = [{"tokens": ["Ada", "sings"], "ner_tags": [1, 0]}, {"tokens": ["rain"], "ner_tags": [0]}]
    path = save(tmp_path / "ner", rows, {"ner_tags": tags})
    with pytest.raises(InputError, match="expected a label and a text"):
        read_data(str(path))
    examples = read_data(str(path), columns=Columns(label="ner_tags", text="tokens")).examples
    assert [(e.text, e.target) for e in examples] == [("Ada sings", Spans(((0, 3, "PER"),))), ("rain", Spans(()))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data-00000-of-00002.arrow", b"no arrow", "expected a directory of Arrow files, found a damaged one"),
        ("state.json", b"{", "expected JSON as datasets writes it"),
        ("state.json", b'{"_data_files": [{"filename": "../x.arrow"}]}', "expected the names of data files beside it"),
    ],
)
def test_what_is_damaged_is_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = save(tmp_path / "set", ROWS)
    (path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_data(str(path))


def test_the_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "set", ROWS)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"needs the package pyarrow; pip install 'skimrt\[data\]'"):
        read_data(str(path))
