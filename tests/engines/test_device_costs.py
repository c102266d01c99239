"""What the device runner costs: captures, copies, moves and memory, counted on a device made of host memory."""

from __future__ import annotations

import gc

from engines.buckets import Bucket
from engines.samples import Sample
from tests.engines.driving import check, drive, stages_on
from tests.engines.host_device import HostDevice, plain_regroup
from tests.engines.toy import BUCKETS, Toy, random_tokens


def test_one_graph_per_engine_and_context_and_nothing_is_captured_twice(toy_artifact) -> None:
    device = HostDevice(plain_regroup)
    stages = stages_on(toy_artifact(Toy()), device, streams=2)
    stages.load_all([BUCKETS] * stages.units)
    assert device.traffic.captures == 2 * 3 * len(BUCKETS)
    before = device.traffic.queued_engines
    samples = random_tokens(3, 50)
    check(Toy(), samples, drive(stages, samples))
    assert device.traffic.captures == 2 * 3 * len(BUCKETS) and device.traffic.launches > 0
    assert device.traffic.queued_engines == before  # every call was a replay


def test_without_graphs_nothing_is_captured(toy_artifact) -> None:
    device = HostDevice(plain_regroup)
    samples = random_tokens(3, 20)
    check(Toy(), samples, drive(stages_on(toy_artifact(Toy()), device, graphs=False), samples))
    assert device.traffic.captures == device.traffic.launches == 0


def test_hidden_states_stay_on_the_device(toy_artifact) -> None:
    """Of stage 1 nothing goes up, and down go count, alive and position only, each padded to 256 bytes."""
    device = HostDevice(plain_regroup)
    stages = stages_on(toy_artifact(Toy()), device, streams=1, graphs=False)
    stages.load_all([BUCKETS] * stages.units)
    sample = Sample(0, random_tokens(0, 1)[0])
    bucket = Bucket(batch=3, length=24)
    stages.run(0, bucket, [sample])
    uploaded, downloaded = device.traffic.uploaded, device.traffic.downloaded
    stages.run(1, bucket, [sample])
    assert device.traffic.uploaded == uploaded
    assert device.traffic.downloaded - downloaded == 256 + 2 * 512
    assert sample.hidden is None and sample.resident is not None


def test_at_batch_one_each_stage_costs_one_move(toy_artifact) -> None:
    """Rows go straight from one engine's output to the next one's input: nothing is parked."""
    device = HostDevice(plain_regroup)
    stages = stages_on(toy_artifact(Toy()), device, streams=1)
    stages.load_all([BUCKETS] * stages.units)
    samples = random_tokens(0, 12)
    for number, tokens in enumerate(samples):
        sample = Sample(number, tokens)
        while sample.logits is None:
            length = next(n for n in (4, 8, 12, 24) if n >= sample.rows)
            stages.run(sample.unit, Bucket(batch=1, length=length), [sample])
    assert device.traffic.regroups == 2 * len(samples)


def test_parking_is_used_again(toy_artifact) -> None:
    device = HostDevice(plain_regroup)
    stages = stages_on(toy_artifact(Toy()), device)
    stages.load_all([BUCKETS] * stages.units)
    allocated = []
    for seed in range(12):
        samples = random_tokens(7, 40)
        check(Toy(), samples, drive(stages, samples, seed % 3))
        allocated.append(device.traffic.allocated)
    assert allocated[0] > 0 and allocated[3:] == allocated[3:4] * 9


def test_calls_that_were_given_up_block_nobody_and_keep_no_memory(toy_artifact) -> None:
    stages = stages_on(toy_artifact(Toy()), HostDevice(plain_regroup), streams=2)
    for number in range(5):
        stages.start(0, BUCKETS[-1], [Sample(number, random_tokens(number, 1)[0])])
    samples = random_tokens(1, 30)
    check(Toy(), samples, drive(stages, samples))
    gc.collect()
    held = [rows for lane in stages._lanes for c in lane.contexts.values() if (rows := c.output) and rows.residents]
    assert not held
