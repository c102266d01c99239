"""The fair baseline: the dense model, built by the same pipeline, its buckets chosen in the same way."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from engines.artifact import Artifact
from engines.buckets import default_buckets, format_buckets
from engines.errors import InputError
from pipeline.build_key import build_key, chosen_buckets
from pipeline.builder import build, refuse
from pipeline.config import BuildConfig
from pipeline.model.checkpoint import checkpoint_digest, read_config
from pipeline.subject import Subject
from pipeline.target import BuildTarget


def build_against_dense(config: BuildConfig, console: Console) -> Artifact:
    """Builds an artifact and, where a dense checkpoint is known, times it against that model's own artifact.

    Where the target's engines cannot run, nothing is timed.
    """
    refuse(config)
    runs = BuildTarget.of(config).cannot_run is None
    baseline = dense_artifact(config, console) if runs and config.dense_checkpoint is not None else None
    return build(config, console, baseline)


def dense_artifact(config: BuildConfig, console: Console) -> Path:
    """Path of the dense model's artifact for a configuration, beside `out`; built unless it is there already."""
    out, buckets = config.out.with_name(f"{config.out.name}-dense"), config.buckets
    if buckets is None and config.stages != "auto":  # then nothing is planned, and the lengths are the default ones
        buckets = format_buckets(default_buckets(read_config(config.checkpoint).max_length))
    dense = config.model_copy(
        update={
            "checkpoint": config.dense_checkpoint,
            "dense": None,
            "stages": "auto",
            "buckets": buckets,
            "plan": "auto",
            "out": out,
            "force": True,
        }
    )
    if not _is_current(dense):
        _refuse_strangers(out, config)
        console.print(f"the dense model to compare with, {out}:")
        build(dense, console)
    return out


def _refuse_strangers(out: Path, config: BuildConfig) -> None:
    """Raises InputError where anything but the dense model's artifact has the name that this is to have."""
    if not out.is_symlink() and (not out.exists() or (out.is_dir() and not any(out.iterdir()))):
        return
    dense = config.dense_checkpoint
    assert dense is not None
    try:
        held = Artifact.open(out, verify=False).manifest.checkpoint
    except InputError as error:
        found = f"something that is no artifact ({str(error).splitlines()[0]})"
    else:
        # The same model may be named otherwise than by the last build, or have been trained anew in its place.
        if Path(held.path).resolve() == dense.resolve() or held.sha256 == checkpoint_digest(dense):
            return
        found = f"an artifact of {held.path}"
    raise InputError(
        f"--out {config.out}: the dense model to compare with is built as {out}, where there is {found}; choose "
        "another --out, or remove that one"
    )


def _is_current(config: BuildConfig) -> bool:
    """Whether the artifact is of the same build and holds engines for this machine."""
    try:
        manifest = Artifact.open(config.out).manifest
    except InputError:
        return False
    binding = BuildTarget.of(config).binding
    if all(record.binding != binding for record in manifest.engines):
        return False
    subject = Subject.load(config.checkpoint, config.data, max(config.samples, config.metric_samples))
    return manifest.build_key == build_key(config, subject, chosen_buckets(config, subject.model))
