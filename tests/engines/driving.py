"""Drives the device runner on a host device, with as many calls in flight as chance has it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.artifact import Artifact
from engines.backends import BACKENDS
from engines.backends.onnxruntime import OnnxRuntimeBackend
from engines.buckets import Bucket
from engines.device_stages import DeviceStageRunner
from engines.prediction import SampleResult
from engines.runner import open_stages
from engines.samples import Sample
from engines.scheduler import Scheduler
from engines.stage_runner import Call, StageRunner
from engines.tokenization import Tokens
from tests.engines.host_device import HostDevice, HostDeviceBackend
from tests.engines.toy import BUCKETS, Toy

INNER = next(backend for backend in (OnnxRuntimeBackend(), *BACKENDS) if backend.available() is None)
"""What computes the engines of host devices."""


def stages_on(path: Path, device: HostDevice, streams: int = 2, graphs: bool = True) -> DeviceStageRunner:
    """The stages of an artifact, on a host device."""
    backend = HostDeviceBackend(INNER, device)
    stages = open_stages(Artifact.open(path, verify=False), backend, 1, streams, graphs)
    assert isinstance(stages, DeviceStageRunner)
    return stages


def drive(
    stages: StageRunner, samples: Sequence[Tokens], seed: int = 0, buckets: Sequence[Bucket] = BUCKETS
) -> list[SampleResult]:
    """Runs samples with as many calls in flight as chance has it, whose ends come in any order."""
    scheduler, rng = Scheduler([buckets] * stages.units), random.Random(seed)
    all_samples = [Sample(number, tokens) for number, tokens in enumerate(samples)]
    for unit in range(stages.units):
        works = scheduler.calls(unit, [sample.rows for sample in all_samples])
        rng.shuffle(works)
        flight: list[Call] = []
        for work in works:
            flight.append(stages.start(unit, work.bucket, [all_samples[place] for place in work.samples]))
            while flight and rng.random() < 0.4:
                stages.finish(flight.pop(rng.randrange(len(flight))))
        while flight:
            stages.finish(flight.pop(rng.randrange(len(flight))))
    return [sample.result() for sample in all_samples]


def check(toy: Toy, samples: Sequence[Tokens], results: Sequence[SampleResult]) -> None:
    """Answers and surviving tokens are those of the reference."""
    for tokens, result in zip(samples, results, strict=True):
        logits, survivors = toy.reference(tokens)
        np.testing.assert_allclose(result.logits, logits, atol=1e-5)
        assert [positions.tolist() for positions in result.survivors] == survivors
        assert result.length == len(tokens)
        for alive, carried in zip(survivors[:-1], result.carried, strict=True):
            assert carried == len(alive) + (0 not in alive)
