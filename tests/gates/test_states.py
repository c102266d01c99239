"""What stages are fed with: the reference's states, and how buckets are filled with them."""

from __future__ import annotations

import numpy as np
import pytest

from engines.buckets import Bucket, parse_buckets
from pipeline.gates import Reference
from pipeline.gates.states import edge_buckets, fill_bucket, walk_states
from pipeline.graph.stages import cut_stages
from tests.graph.small import random_samples, small_model

SAMPLES = random_samples(8)


def test_every_stage_is_fed_what_the_reference_carries_to_it() -> None:
    model = small_model("ltp", layers=2)
    reference = Reference.of(model, SAMPLES)
    (_, first), (_, second) = walk_states(model, cut_stages(model, [1]), SAMPLES)
    for index, sample in enumerate(SAMPLES):
        assert first[index]["input_ids"].tolist() == sample.input_ids
        assert second[index]["position"].tolist() == np.flatnonzero(reference.alive[index][1]).tolist()
        assert second[index]["hidden"].shape == (int(reference.counts[index][1]), 32)


def state(rows: int) -> dict[str, np.ndarray]:
    """A state whose hidden rows say how many they are."""
    return {"hidden": np.full((rows, 2), rows, np.float32), "alive": np.ones(rows, np.int32)}


@pytest.mark.parametrize(
    ("bucket", "chosen"),
    [
        (Bucket(batch=1, length=8), [8]),
        (Bucket(batch=2, length=8), [8, 5]),
        (Bucket(batch=3, length=8), [8, 5]),  # the third place is left to padding
        (Bucket(batch=8, length=32), [9, 8, 5, 1]),
        (Bucket(batch=4, length=4), [1]),
    ],
)
def test_buckets_are_filled_with_the_longest_samples_that_fit(bucket: Bucket, chosen: list[int]) -> None:
    filled = fill_bucket([state(5), state(1), state(9), state(8)], bucket)
    batch, real = filled
    assert real == len(chosen)
    assert batch["hidden"].shape == (bucket.batch, bucket.length, 2)
    assert batch["hidden"][:, 0, 0].tolist() == chosen + [0] * (bucket.batch - real)
    assert batch["alive"].sum(1).tolist() == chosen + [0] * (bucket.batch - real)


def test_where_no_sample_fits_it_is_the_first_rows_of_the_shortest() -> None:
    batch, real = fill_bucket([state(9), state(5)], Bucket(batch=2, length=4))
    assert real == 1 and batch["alive"].tolist() == [[1] * 4, [0] * 4]
    assert batch["hidden"][0].tolist() == state(5)["hidden"][:4].tolist()


def test_the_edges_are_the_shortest_and_the_longest_of_every_batch_size() -> None:
    buckets = parse_buckets("1x16,1x24,1x32,4x32,4x16,4x24")
    assert edge_buckets(buckets) == parse_buckets("1x16,1x32,4x16,4x32")
    assert edge_buckets([Bucket(batch=2, length=8)]) == [Bucket(batch=2, length=8)]
    assert edge_buckets([]) == []
