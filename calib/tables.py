"""Rows of columnar files: parquet, and directories that Hugging Face's `datasets` has saved. Needs pyarrow."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from calib.row import Columns, Row, header_problem, named
from engines.errors import InputError, TargetError

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_NAMES = {"train": ("train",), "dev": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""What published sets call the splits."""


def is_dataset(path: Path) -> bool:
    """Whether a directory is what `save_to_disk` writes: a set, or one for each split."""
    return (path / _STATE).is_file() or (path / _SPLITS).is_file()


def splits_in(path: Path) -> list[str]:
    """Which of train, dev and test a directory holds apart; none for a single set. Raises InputError."""
    if not (path / _SPLITS).is_file():
        return []
    listed = _read_json(path / _SPLITS).get("splits", [])
    return [split for split, names in _NAMES.items() if set(names) & set(listed)]


def split_folder(path: Path, split: str | None) -> Path:
    """The single set of a directory that a split is; where it lacks the dev or the test split, the other one.

    Raises InputError where it has neither.
    """
    if not (path / _SPLITS).is_file():
        return path
    wanted = {"train": ["train"], "dev": ["dev", "test"], "test": ["test", "dev"]}.get(split or "", [])
    for name in [name for kind in wanted for name in _NAMES[kind]]:
        if (path / name / _STATE).is_file():
            return path / name
    splits = ", ".join(sorted(folder.parent.name for folder in path.glob(f"*/{_STATE}")))
    raise InputError(
        f"{path}: expected a split {split or 'to be named'}, found {splits}; name one, such as {path}/train"
    )


def table_rows(path: Path, columns: Columns, labelled: bool) -> Iterator[Row]:
    """The rows of a parquet file or of a saved set, classes by their names. Raises InputError, or TargetError."""
    _require_pyarrow(path)
    import pyarrow

    if path.exists() and not path.is_file() and not is_dataset(path):
        raise InputError(f"{path}: expected a file, found a directory, a pipe or a device")
    number = 0
    try:
        for schema, batches in _tables(path):
            if (problem := header_problem(schema.names, columns, labelled)) is not None:
                raise InputError(f"{path}: {problem}")
            known = _class_names(schema, columns.label)
            for batch in batches:
                for fields in batch.to_pylist():
                    number += 1
                    fields[columns.label] = _with_names(fields.get(columns.label), known)
                    yield named(f"row {number}", fields, columns)
    except (pyarrow.ArrowException, OSError, UnicodeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        kind = "a parquet file" if path.is_file() else "a directory of Arrow files"
        raise InputError(f"{path}: expected {kind}, found a damaged one: {reason}") from None


def class_names(path: Path, label: str) -> list[str]:
    """The names of the classes that a file's own description gives its labels; none where it says nothing."""
    _require_pyarrow(path)
    import pyarrow

    try:
        return next((_class_names(schema, label) for schema, _ in _tables(path)), [])
    except (pyarrow.ArrowException, OSError, UnicodeError, OverflowError):
        return []  # whoever reads the rows says it


def _tables(path: Path) -> Iterator[tuple[Any, Any]]:
    """The schema and the batches of each file."""
    import pyarrow.ipc
    import pyarrow.parquet

    if path.is_file():
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file.schema_arrow, file.iter_batches()
        return
    for name in _data_files(path):
        with pyarrow.memory_map(str(path / name)) as source, pyarrow.ipc.open_stream(source) as batches:
            yield batches.schema, batches


def _data_files(path: Path) -> Sequence[str]:
    """The files of a saved set, all in its own directory. Raises InputError."""
    entries = _read_json(path / _STATE).get("_data_files")
    files = [entry.get("filename") for entry in entries or [] if isinstance(entry, dict)]
    names = [name for name in files if isinstance(name, str) and Path(name).name == name]
    if not names or len(names) < len(files):
        raise InputError(f"{path / _STATE}: expected the names of data files beside it, found {entries!r:.80}")
    return names


def _class_names(schema: Any, label: str) -> list[str]:
    """The names of a feature of classes, or of a list of them, which datasets keeps in the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        feature = features[label]
        names = (feature[0] if isinstance(feature, list) else feature.get("feature", feature))["names"]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return []
    return list(map(str, names)) if isinstance(names, list) else []


def _with_names(label: object, names: Sequence[str]) -> object:
    """Classes by index as names: of a list each; -1 is no label."""
    if not names:
        return label
    if isinstance(label, list):
        return [_with_names(one, names) for one in label]
    if not isinstance(label, int) or label >= len(names):
        return label
    return names[label] if label >= 0 else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON as datasets writes it, found {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value


def _require_pyarrow(path: Path) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise TargetError(f"{path}: reading it needs the package pyarrow; pip install 'skimrt[data]'")
