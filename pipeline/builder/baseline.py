"""The fair baseline: the dense model, built by the same pipeline, its buckets chosen in the same way."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from engines.artifact import Artifact
from engines.buckets import default_buckets, format_buckets
from engines.errors import InputError
from pipeline.builder.config import BuildConfig
from pipeline.builder.dense import DenseModel
from pipeline.builder.start import Start
from pipeline.builder.steps import build_from


def build_against_dense(config: BuildConfig, console: Console) -> Artifact:
    """Builds an artifact and, where a dense checkpoint is known, times it against that model's own artifact.

    Where the target's engines cannot run, nothing is timed. Nothing is built in front of an error that can be known.
    """
    start = Start.of(config)
    with start.publisher() as publisher:
        compared = start.dense is not None and start.target.cannot_run is None
        baseline = dense_artifact(start, console) if compared else None
        return build_from(start, publisher, console, baseline)


def dense_artifact(start: Start, console: Console) -> Path:
    """Path of the dense model's artifact for a build, beside `out`; built unless it is there already."""
    assert start.dense is not None
    dense = Start.of(dense_config(start.config, start.subject.model.config.max_length), start.inputs)
    if not _is_current(dense):
        _refuse_strangers(dense.config.out, start.dense, start.config.out)
        console.print(f"the dense model to compare with, {dense.config.out}:")
        with dense.publisher() as publisher:
            build_from(dense, publisher, console)
    return dense.config.out


def dense_config(config: BuildConfig, max_length: int) -> BuildConfig:
    """The same build of the dense model, whose artifact lies beside `out`. max_length: the pruned model's."""
    buckets = config.buckets
    if buckets is None and config.stages != "auto":  # then nothing is planned, and the lengths are the default ones
        buckets = format_buckets(default_buckets(max_length))
    out = config.out.with_name(f"{config.out.name}-dense")
    own = {"checkpoint": config.dense_checkpoint, "dense": None, "stages": "auto", "buckets": buckets}
    return config.model_copy(update={**own, "out": out, "force": True})


def _refuse_strangers(out: Path, dense: DenseModel, asked: Path) -> None:
    """Raises InputError where anything but the dense model's artifact has the name that this is to have."""
    if not out.is_symlink() and (not out.exists() or (out.is_dir() and not any(out.iterdir()))):
        return
    try:
        known = Artifact.open(out, verify=False).manifest.checkpoint
    except InputError as error:
        found = f"something that is no artifact ({str(error).splitlines()[0]})"
    else:
        # The same model may be named otherwise than by the last build, or have been trained anew in its place.
        if Path(known.path).resolve() == dense.checkpoint.resolve() or known.sha256 == dense.digest:
            return
        found = f"an artifact of {known.path}"
    raise InputError(
        f"--out {asked}: the dense model to compare with is built as {out}, where there is {found}; choose "
        "another --out, or remove that one"
    )


def _is_current(start: Start) -> bool:
    """Whether the artifact is of the same build and holds engines for this machine."""
    try:
        manifest = Artifact.open(start.config.out).manifest
    except InputError:
        return False
    here = any(record.binding == start.target.binding for record in manifest.engines)
    return here and manifest.build_key == start.key
