"""The verbs that benchmarks run."""

import subprocess

import pytest

from benchmarks.verbs import VerbError, child_seconds, run_verb


def test_a_verb_that_refuses_ends_a_benchmark_as_it_ended_itself(capfd):
    with pytest.raises(VerbError, match=r"pipeline\.inspect nothing: ended with exit code 2") as refused:
        run_verb("pipeline.inspect", "nothing")
    assert refused.value.exit_code == 2
    assert "error: artifact nothing" in capfd.readouterr().err


def test_what_a_verb_prints_is_read_and_its_processor_time_counted():
    before = child_seconds()
    assert "usage" in run_verb("pipeline.inspect", "--help", stdout=subprocess.PIPE)
    assert child_seconds() > before
