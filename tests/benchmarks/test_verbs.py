"""The verbs that benchmarks run."""

from __future__ import annotations

import pytest

from benchmarks.verbs import VerbError, child_seconds, run_verb


def test_a_verb_that_refuses_ends_a_benchmark_as_it_ended_itself(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(VerbError, match=r"pipeline\.inspect nothing: ended with exit code 2") as refused:
        run_verb("pipeline.inspect", "nothing")
    assert refused.value.exit_code == 2
    assert "error: artifact nothing" in capfd.readouterr().err


def test_what_a_verb_prints_is_read_and_its_processor_time_counted() -> None:
    before = child_seconds()
    assert "usage" in run_verb("pipeline.inspect", "--help", captured=True)
    assert child_seconds() > before
