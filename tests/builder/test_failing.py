"""Engines without the profiles that cannot be built: found whichever they are, their logs kept, the others built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from engines.backends.base import Built
from engines.buckets import Bucket
from engines.errors import BuildError
from pipeline.builder.failing import build_what_can_be

BUCKETS = [Bucket(batch=1, length=length) for length in range(4, 40, 4)]


class Library:
    """Fails for an engine with a bad profile, or with more than it has room for; leaves a log, as workers do."""

    def __init__(self, bad: Sequence[Bucket], room: int = 99) -> None:
        self.bad, self.room = set(bad), room

    def __call__(self, buckets: Sequence[Bucket], out: Path) -> Built:
        log = out.with_name(out.name + ".log")
        log.unlink(missing_ok=True)
        if self.bad & set(buckets) or len(buckets) > self.room:
            log.write_text("why")
            raise BuildError(f"{out.name} failed")
        out.write_text(" ".join(map(str, buckets)))
        return Built(layers=dict.fromkeys(buckets, ()))


@given(
    st.lists(st.sampled_from(BUCKETS), min_size=1, unique=True).flatmap(
        lambda b: st.tuples(st.just(b), st.sets(st.sampled_from(b)))
    )
)
def test_exactly_the_bad_ones_are_left_out(asked: tuple[list[Bucket], set[Bucket]]) -> None:
    buckets, bad = asked
    with TemporaryDirectory() as folder:
        out = Path(folder) / "stage_0.plan"
        built, errors = build_what_can_be(0, buckets, out, Library(list(bad)))
        good = [bucket for bucket in buckets if bucket not in bad]
        assert set(errors) == bad
        assert (built is None) == (not good) and (built is None or list(built.layers) == good)
        assert {path.name for path in Path(folder).glob("*.plan")} == ({out.name} if good else set())
        logs = {path.name for path in Path(folder).glob("*.log")} - {f"{out.name}.log"}
        assert logs == {f"stage_0_b1_s{bucket.length}.plan.log" for bucket in bad}
        assert all(str(errors[bucket]) == f"stage_0_b1_s{bucket.length}.plan failed" for bucket in bad)


def test_what_fails_only_together_is_no_fault_of_one(tmp_path: Path) -> None:
    """As where memory holds an engine of half the profiles."""
    built, errors = build_what_can_be("head", BUCKETS, tmp_path / "head.plan", Library([], room=5))
    assert built is None and set(errors) == set(BUCKETS)
    assert {str(error) for error in errors.values()} == {"head.plan failed"}
