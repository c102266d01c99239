"""Building from Python, with the settings of `skimrt build`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from engines.artifact import Artifact
from pipeline.builder.baseline import build_against_dense
from pipeline.builder.config import read_build_config


def build(config: str | Path | None = None, *, quiet: bool = False, **settings: Any) -> Artifact:
    """Builds, checks and publishes an artifact, and times it against the dense model where one is named.

    config:   a TOML file of settings. settings: the flags of `skimrt build`, such as checkpoint, dense and out.
    quiet:    shows no progress.
    Raises InputError, GateError, BuildError or TargetError, and then has published nothing.
    """
    read = read_build_config(None if config is None else Path(config), settings)
    return build_against_dense(read, Console(stderr=True, quiet=quiet))
