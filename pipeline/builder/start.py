"""Reads the inputs of a build, and refuses bad ones before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from calib.texts import CalibrationSet
from engines.artifact import Artifact
from engines.buckets import Bucket, parse_buckets
from engines.errors import InputError
from engines.manifest import EngineRecord
from engines.precisions import ComparedPrecision
from pipeline.builder.build_key import build_key, chosen_buckets
from pipeline.builder.config import BuildConfig
from pipeline.builder.dense import DenseModel
from pipeline.builder.publish import Publisher
from pipeline.builder.subject import Inputs, Subject, encoder_of
from pipeline.builder.target import BuildTarget
from pipeline.graph.export import Export
from pipeline.graph.stages import cut_stages
from pipeline.planning.simple import choose_cuts

Result = TypeVar("Result")


@dataclass(frozen=True)
class Start:
    """The inputs of a build, read once.

    previous:  the artifact that is already at `out`. elsewhere: its engines for other machines, if it is from the same
               build. compared: the precisions that the configuration's was chosen from.
    """

    config: BuildConfig
    target: BuildTarget
    inputs: Inputs
    subject: Subject
    buckets: list[Bucket]
    calibration_texts: CalibrationSet | None
    dense: DenseModel | None
    key: str
    previous: Artifact | None
    elsewhere: list[EngineRecord]
    compared: tuple[ComparedPrecision, ...] = ()

    @classmethod
    def of(
        cls,
        config: BuildConfig,
        inputs: Inputs | None = None,
        dense: DenseModel | None = None,
        typical_length: int | None = None,
    ) -> Start:
        """Reads the inputs of a configuration; several problems of the command line are one error.

        dense:          the model of `config.dense_checkpoint`, where another build has it already.
        typical_length: tokens at which the texts that are planned for are cut; None: what the model takes.
        Raises InputError or TargetError for what can be known before anything is computed.
        """
        config = config.settled
        target, inputs = BuildTarget.of(config), inputs or Inputs(config.columns)
        subject = replace(_subject(config, inputs), typical_length=typical_length)
        if config.dense_checkpoint is not None:
            dense = dense or DenseModel(config.dense_checkpoint, inputs)
            dense.refuse_for(config.checkpoint)
        buckets = chosen_buckets(config, subject.model)
        if config.stages != "auto":
            cut_stages(subject.model, choose_cuts(subject.model, config.stages, []))
        texts = _calibration_set(config, subject, buckets) if config.precision == "int8" else None
        key = build_key(config, subject, buckets, texts, dense)
        previous = _artifact_at(config)
        elsewhere = _engines_elsewhere(previous, key, target)
        return cls(config, target, inputs, subject, buckets, texts, dense, key, previous, elsewhere)

    @property
    def export(self) -> Export:
        """Writes the graphs of the model's stages."""
        target = self.target
        return self.inputs.export(self.config.checkpoint, target.backend.reads_program, target.options.plugin)

    @property
    def batches(self) -> list[int]:
        """The batch sizes of the buckets, ascending."""
        return sorted({bucket.batch for bucket in self.buckets})

    def publisher(self) -> Publisher:
        """Returns the publisher of `config.out`. A machine without engines in the artifact of this build adds its
        own.
        """
        adds = False
        if self.previous is not None and self.target.binding is not None:
            manifest = self.previous.manifest
            adds = manifest.build_key == self.key and len(manifest.engines) == len(self.elsewhere)
        return Publisher(self.config.out, self.key, force=self.config.force or adds, resume=self.config.resume)


def _subject(config: BuildConfig, inputs: Inputs) -> Subject:
    problems: list[InputError] = []

    def attempt(read: Callable[[], Result]) -> Result | None:
        try:
            return read()
        except InputError as error:
            problems.append(error)
            return None

    model = attempt(lambda: inputs.model(config.checkpoint))
    examples = attempt(lambda: inputs.examples(config.data, "test"))
    attempt(lambda: config.buckets and parse_buckets(config.buckets))
    if problems:
        raise problems[0] if len(problems) == 1 else InputError.listing("build", [str(error) for error in problems])
    assert model is not None and examples is not None
    typical = inputs.examples(config.calibration or config.data, "dev")
    count = max(config.samples, config.metric_samples)
    return Subject.of(config.checkpoint, model, config.data, examples[:count], typical)


def _artifact_at(config: BuildConfig) -> Artifact | None:
    """Returns the artifact at `out` if it can be read; its files are verified when they are used."""
    try:
        return Artifact.open(config.out, verify=False)
    except InputError:
        return None


def _engines_elsewhere(previous: Artifact | None, key: str, target: BuildTarget) -> list[EngineRecord]:
    if previous is None or previous.manifest.build_key != key or target.binding is None:
        return []
    return [record for record in previous.manifest.engines if record.machine != target.binding.machine]


def _calibration_set(config: BuildConfig, subject: Subject, buckets: Sequence[Bucket]) -> CalibrationSet:
    """Reads the texts of --calibration, by default the dev split of the gates' data. Raises InputError for unusable
    ones.
    """
    model = subject.model.config
    samples = encoder_of(subject.checkpoint, subject.model)([example.content for example in subject.typical])
    data, pad = config.calibration or config.data, model.encoder.pad_token_id
    return CalibrationSet.of(data, subject.typical, samples, pad, model.head.labels, buckets)
