"""Writes a build's plan and manifest."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from calib.data import examples_digest
from engines import manifest as schema
from engines.artifact import digest_files
from engines.buckets import Bucket
from engines.head import Head
from engines.machine import tool_versions
from engines.manifest import EngineRecord, Manifest
from engines.plan import Plan, StagePlan
from engines.version import __version__
from pipeline.builder.start import Start
from pipeline.builder.work import Exported, Planned
from pipeline.planning.plan import ChosenPlan, padding


def plan_of(planned: Planned, exported: Exported, failed: Mapping[Bucket, str]) -> Plan:
    """Returns the plan as it was built, without the buckets that failed."""
    chosen, graphs = planned.plan, exported.graphs
    built = [sorted(bucket for bucket in buckets if bucket not in failed) for buckets in chosen.buckets]
    everything = sorted({bucket for buckets in built for bucket in buckets})
    stages = [
        StagePlan(
            graph=graphs[spec.index],
            int8_graph=exported.int8.get(spec.index),
            steps=spec.step_names,
            buckets=None if buckets == everything else buckets,
            milliseconds=_milliseconds(chosen, spec.index, buckets),
        )
        for spec, buckets in zip(planned.expected.specs, built, strict=True)
    ]
    return Plan(
        precision=planned.expected.precision,
        stages=stages,
        head_graph=graphs.get("head"),
        buckets=everything,
        expected_ms={batch: round(1e3 * seconds, 4) for batch, seconds in chosen.expected_seconds.items()},
        padding=round(padding(chosen, planned.expected.reference.rows.numpy()), 4),
    )


def _milliseconds(chosen: ChosenPlan, stage: int, buckets: Sequence[Bucket]) -> list[float]:
    """Returns the milliseconds of a call of each bucket of a stage; [] if the plan has none."""
    if not chosen.call_seconds:
        return []
    seconds = dict(zip(chosen.buckets[stage], chosen.call_seconds[stage], strict=True))
    return [round(1e3 * seconds[bucket], 4) for bucket in buckets]


def manifest_of(start: Start, plan: Plan, records: list[EngineRecord], root: Path) -> Manifest:
    """The manifest of an artifact in `root`, before its gates."""
    config, subject = start.config, start.subject
    model = subject.model.config
    encoder = model.encoder.model_dump(include=set(schema.Encoder.model_fields))
    encoder["type_vocab_size"] = max(1, model.encoder.type_vocab_size)  # an engine always takes segments
    return Manifest(
        skimrt_version=__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        build_key=start.key,
        build_arguments=config.arguments,
        method=model.pruner.method,
        head=Head(**model.head.model_dump(include=set(Head.model_fields))),
        max_length=model.max_length,
        encoder=schema.Encoder(**encoder),
        protect_first=model.pruner.protect_first,
        protect_until=model.pruner.protect_until,
        checkpoint=schema.Checkpoint(path=str(config.checkpoint), sha256=subject.digest),
        data=schema.Data(name=config.data, count=len(subject.examples), sha256=examples_digest(subject.examples)),
        plan=plan,
        engines=records,
        tools=tool_versions(),
        machine={"processor": platform.machine(), "system": platform.system(), "cpus": str(os.cpu_count())},
        files=digest_files(root),
        compared=list(start.compared),
    )
