"""Computes what a build depends on: its buckets, and the digest of everything else that would make it another build."""

from __future__ import annotations

from collections.abc import Sequence

from calib.data import examples_digest
from calib.texts import CalibrationSet
from engines.buckets import Bucket, default_buckets, format_buckets, parse_buckets
from engines.errors import InputError
from engines.files import digest_of, sha256
from engines.machine import tool_versions
from engines.version import __version__
from pipeline.builder.config import BuildConfig
from pipeline.builder.dense import DenseModel
from pipeline.builder.subject import Subject
from pipeline.model.checkpoint import tokenizer_path
from pipeline.model.transformer import PrunedTransformer


def build_key(
    config: BuildConfig,
    subject: Subject,
    buckets: Sequence[Bucket],
    calibration: CalibrationSet | None = None,
    dense: DenseModel | None = None,
) -> str:
    """Returns the SHA-256 of everything an artifact depends on, except the machine that compiles its engines."""
    inputs = {
        "checkpoint": subject.digest,
        "tokenizer": sha256(tokenizer_path(config.checkpoint)),
        "stages": config.stages,
        "samples": config.samples,
        "buckets": format_buckets(buckets),
        "max_profiles": config.max_profiles,
        "memory": config.memory,
        "token_budget": config.token_budget,
        "device": config.device,
        "target": config.target,
        "frontend": config.frontend,
        "precision": config.precision,
        "data": examples_digest(subject.examples),
        "typical": examples_digest(subject.typical),
        "typical_length": subject.typical_length,
        "version": __version__,
        "tools": tool_versions(),
    }
    if calibration is not None:
        inputs["calibration"] = calibration.coverage.data_sha256
        inputs["max_drop"] = config.max_drop
        inputs["dense"] = None if dense is None else dense.digest
    return digest_of(inputs)


def chosen_buckets(config: BuildConfig, model: PrunedTransformer) -> list[Bucket]:
    """Returns the requested buckets, or the default ones. Raises InputError if none fits the longest input."""
    if config.buckets is None:
        return default_buckets(model.config.max_length)
    buckets = parse_buckets(config.buckets)
    longest = max(bucket.length for bucket in buckets)
    if longest < model.config.max_length:
        raise InputError(
            f"buckets {config.buckets}: the longest is {longest}, the model takes {model.config.max_length}"
        )
    beyond = [bucket for bucket in buckets if bucket.length > model.config.encoder.longest_input]
    if beyond:
        raise InputError(
            f"buckets {config.buckets}: expected lengths of at most {model.config.encoder.longest_input}, which the "
            f"encoder has positions for, found {beyond[0]}"
        )
    return buckets
