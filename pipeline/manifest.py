"""What a build writes down about itself: the plan as it was built, and the manifest."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from calib.data import examples_digest
from engines import artifact as layout
from engines.artifact import EngineRecord, Manifest, Unit
from engines.buckets import Bucket
from engines.plan import Plan, StagePlan
from pipeline import __version__
from pipeline.config import BuildConfig
from pipeline.graph.precision import Precision
from pipeline.graph.stages import StageSpec
from pipeline.model.checkpoint import checkpoint_digest
from pipeline.planning.plan import ChosenPlan
from pipeline.subject import Subject
from pipeline.versions import tool_versions


def plan_of(
    planned: ChosenPlan,
    specs: Sequence[StageSpec],
    graphs: Mapping[Unit, str],
    precision: Precision,
    failed: Mapping[Bucket, str],
) -> Plan:
    """The plan as it was built: without the buckets that could not be."""
    held = [sorted(bucket for bucket in buckets if bucket not in failed) for buckets in planned.buckets]
    everything = sorted({bucket for buckets in held for bucket in buckets})
    stages = [
        StagePlan(
            graph=graphs[spec.index],
            steps=spec.step_names,
            buckets=None if buckets == everything else buckets,
            milliseconds=_milliseconds(planned, spec.index, buckets),
        )
        for spec, buckets in zip(specs, held, strict=True)
    ]
    return Plan(
        precision=precision,
        stages=stages,
        head_graph=graphs.get("head"),
        buckets=everything,
        expected_ms={batch: round(1e3 * seconds, 4) for batch, seconds in planned.expected_seconds.items()},
    )


def _milliseconds(planned: ChosenPlan, stage: int, buckets: Sequence[Bucket]) -> list[float]:
    """Of a call of each of these buckets of a stage, if the plan knows."""
    if not planned.call_seconds:
        return []
    seconds = dict(zip(planned.buckets[stage], planned.call_seconds[stage], strict=True))
    return [round(1e3 * seconds[bucket], 4) for bucket in buckets]


def manifest_of(
    config: BuildConfig,
    key: str,
    subject: Subject,
    plan: Plan,
    records: list[EngineRecord],
    root: Path,
) -> Manifest:
    """The manifest of an artifact in `root`, before its gates."""
    model = subject.model.config
    encoder = model.encoder.model_dump(include=set(layout.Encoder.model_fields))
    return Manifest(
        skimrt_version=__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        build_key=key,
        build_arguments=config.arguments,
        method=model.pruner.method,
        head=layout.Head(**model.head.model_dump()),
        max_length=model.max_length,
        encoder=layout.Encoder(**encoder),
        protect_first=model.pruner.protect_first,
        checkpoint=layout.Checkpoint(path=str(config.checkpoint), sha256=checkpoint_digest(config.checkpoint)),
        data=layout.Data(name=config.data, count=len(subject.examples), sha256=examples_digest(subject.examples)),
        plan=plan,
        engines=records,
        tools=tool_versions(),
        machine={"processor": platform.machine(), "system": platform.system(), "cpus": str(os.cpu_count())},
        files=layout.digest_files(root),
    )
