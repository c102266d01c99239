"""Builds the baseline: the dense model, by the same pipeline, with its buckets chosen in the same way."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from engines.artifact import Artifact
from engines.buckets import Bucket, default_buckets, format_buckets, parse_buckets
from engines.errors import InputError
from pipeline.builder.config import BuildConfig
from pipeline.builder.dense import DenseModel
from pipeline.builder.precision import in_fastest_precision
from pipeline.builder.start import Start
from pipeline.builder.steps import build_from
from pipeline.builder.subject import Inputs

ANY_DROP = 100.0
"""Points: all that a metric has."""


def build_against_dense(config: BuildConfig, console: Console) -> Artifact:
    """Builds an artifact and, if a dense checkpoint is known, times it against that model's artifact.

    Nothing is timed if the target's engines cannot run here. Errors that can be known are raised before anything is
    built.
    """
    inputs = Inputs(config.columns)

    def attempt(start: Start) -> Artifact:
        with start.publisher() as publisher:
            timed = start.dense is not None and start.target.cannot_run is None
            baseline = dense_artifact(start, console) if timed else None
            return build_from(start, publisher, console, baseline)

    return in_fastest_precision(config, console, lambda chosen: Start.of(chosen, inputs), attempt)


def dense_artifact(start: Start, console: Console) -> Path:
    """Returns the path of the dense model's artifact, beside `out`; builds it unless it is there already."""
    assert start.dense is not None
    ours, theirs = start.subject.model.config.max_length, start.dense.max_length
    # Both are timed on texts cut at the shorter length, so that is what the dense model's buckets are chosen for.
    shorter = ours if ours < theirs else None
    dense = Start.of(dense_config(start.config, ours, theirs), start.inputs, typical_length=shorter)
    if not _is_current(dense):
        _refuse_strangers(dense.config.out, start.dense, start.config.out)
        console.print(f"the dense model to compare with, {dense.config.out}:")
        with dense.publisher() as publisher:
            build_from(dense, publisher, console)
    return dense.config.out


def dense_config(config: BuildConfig, max_length: int, dense_length: int) -> BuildConfig:
    """Returns the same build for the dense model, with its artifact beside `out`.

    It is built to be timed: in INT8 all of it is quantised, and what that costs it is told but refuses nothing.

    max_length, dense_length: the limits of the pruned and the dense model in tokens; buckets for longer texts are
                              added.
    """
    buckets = config.buckets
    if buckets is None and config.stages != "auto":  # then nothing is planned, and the lengths are the default ones
        buckets = format_buckets(default_buckets(max_length))
    if buckets is not None and dense_length > max(bucket.length for bucket in parse_buckets(buckets)):
        batches = {bucket.batch for bucket in parse_buckets(buckets)}
        longest = [Bucket(batch=batch, length=dense_length) for batch in sorted(batches)]
        buckets = format_buckets([*parse_buckets(buckets), *longest])
    out = config.out.with_name(f"{config.out.name}-dense")
    own = {"checkpoint": config.dense_checkpoint, "dense": None, "stages": "auto", "buckets": buckets}
    return config.model_copy(update={**own, "max_drop": ANY_DROP, "out": out, "force": True})


def _refuse_strangers(out: Path, dense: DenseModel, asked: Path) -> None:
    """Raises InputError if the name of the dense model's artifact is taken by anything else."""
    if not out.is_symlink() and (not out.exists() or (out.is_dir() and not any(out.iterdir()))):
        return
    try:
        known = Artifact.open(out, verify=False).manifest.checkpoint
    except InputError as error:
        found = f"something that is no artifact ({str(error).splitlines()[0]})"
    else:
        # The last build may have named the same model differently, or the model may have been trained again since.
        if Path(known.path).resolve() == dense.checkpoint.resolve() or known.sha256 == dense.digest:
            return
        found = f"an artifact of {known.path}"
    raise InputError(
        f"--out {asked}: the dense model to compare with is built as {out}, where there is {found}; choose "
        "another --out, or remove that one"
    )


def _is_current(start: Start) -> bool:
    """Returns whether the artifact is from the same build and holds engines for this machine."""
    try:
        manifest = Artifact.open(start.config.out).manifest
    except InputError:
        return False
    here = any(record.binding == start.target.binding for record in manifest.engines)
    return here and manifest.build_key == start.key
