"""`--precision auto`: what is compared, what is taken, and what a failed gate changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from engines.artifact import Artifact
from engines.buckets import Bucket
from engines.manifest import Gate
from engines.precisions import told
from pipeline import build
from pipeline.builder import precision, steps
from pipeline.builder.config import BuildConfig
from pipeline.builder.start import Start
from pipeline.graph import once
from pipeline.graph.precision import Precision
from pipeline.graph.stages import Stage, cut_stages
from pipeline.model.config import CheckpointConfig
from tests.gates.builds import Built, classifier, run_verb

SHAPES = [Bucket(batch=1, length=8), Bucket(batch=8, length=8)]
AUTO = ("--stages", 2, "--buckets", "1x16,1x32,2x32", "--samples", 12, "--threads", 1)


@pytest.fixture
def built(tiny_tokenizer: Path) -> Built:
    """The classifier of the session."""
    return classifier(tiny_tokenizer)


class FakeClock:
    """A clock that only calls move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def call(self, seconds: float) -> Callable[[], None]:
        """A call that takes so long."""

        def run() -> None:
            self.now += seconds

        return run


@pytest.mark.parametrize(
    ("bf16", "int8", "taken"), [(0.6, 0.7, "bf16"), (1.5, 0.5, "int8"), (1.5, 1.2, "fp32"), (0.96, 1.0, "fp32")]
)
def test_by_a_fake_clock_the_fastest_is_taken(bf16: float, int8: float, taken: str) -> None:
    clock, shares = FakeClock(), {"fp32": 1.0, "bf16": bf16, "int8": int8}
    calls = {(name, shape): clock.call(share * shape.batch) for name, share in shares.items() for shape in SHAPES}
    seconds = precision.timed(calls, clock)
    assert seconds == pytest.approx({(name, shape): shares[name] * shape.batch for name, shape in calls})
    found = precision.ranked({n: {s.batch: seconds[n, s] / s.batch for s in SHAPES} for n in shares}, {})
    assert found[0].precision == taken


TIMES = st.dictionaries(st.sampled_from(["bf16", "fp16", "int8"]), st.floats(0.01, 10.0), max_size=3)


@given(times=TIMES, widest=st.floats(0.01, 10.0))
def test_one_precision_is_taken_and_a_narrower_one_only_where_it_pays(times: dict[str, float], widest: float) -> None:
    found = precision.ranked({"fp32": {1: widest}, **{name: {1: value} for name, value in times.items()}}, {"x": "why"})
    assert [c.precision for c in found if not c.reason] == [found[0].precision]
    assert {c.precision for c in found} == {"fp32", "x", *times}
    best = min(times.values(), default=float("inf"))
    if found[0].precision == "fp32":
        assert best >= 0.949 * widest
    else:
        assert times[found[0].precision] == best <= 0.951 * widest
    assert told(found).startswith(found[0].precision) and "not x (why)" in told(found)


def test_where_fp32_cannot_be_timed_it_is_built_and_says_why() -> None:
    first, *others = precision.ranked({"bf16": {1: 1.0}}, {"fp32": "a constant was baked in", "int8": "no texts"})
    assert (first.precision, first.reason) == ("fp32", "")
    assert {other.precision: other.reason for other in others} == {"bf16": "fp32 cannot be timed", "int8": "no texts"}


def auto(built: Built, out: Path) -> Artifact:
    """Builds with nothing said about the precision."""
    model = ("--checkpoint", built.checkpoint, "--data", built.data, "--max-drop", 100)
    assert run_verb(build, *model, *AUTO, "--out", out) == 0
    return Artifact.open(out)


def fast_bf16(*call: object) -> dict[str, dict[int, float]]:
    """What is measured on a machine that bf16 suits."""
    return {"fp32": {1: 2.0, 2: 2.0}, "bf16": {1: 1.0, 2: 1.0}}


def test_the_fastest_precision_is_built_and_passes_the_gates(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision, "_milliseconds", fast_bf16)
    manifest = auto(built, tmp_path / "artifact").manifest
    assert {engine.precision for engine in manifest.engines} == {manifest.plan.precision} == {"bf16"}
    assert [(c.precision, c.reason) for c in manifest.compared] == [
        ("bf16", ""),
        ("fp32", "slower than bf16"),
        ("int8", "without --calibration"),
    ]
    assert {gate.name: gate.status for gate in manifest.gates}["numeric: engines (cpu)"] == "PASSED"
    assert "--precision" in manifest.build_arguments and "bf16" in manifest.build_arguments
    printed = " ".join(capsys.readouterr().out.split())
    assert "bf16 (1.00 ms at batch 1, 1.00 ms at batch 2); not fp32 (2.00 ms at batch 1" in printed


def test_where_a_gate_fails_the_next_precision_is_built(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = steps.check

    def failing(work: steps.Work, *more) -> list[Gate]:
        if work.config.precision == "bf16":
            return [Gate(name="task metric", status="FAILED", reason="it lost 7 points")]
        return check(work, *more)

    monkeypatch.setattr(precision, "_milliseconds", fast_bf16)
    monkeypatch.setattr(steps, "check", failing)
    manifest = auto(built, tmp_path / "artifact").manifest
    assert manifest.built == {"cpu": {"fp32"}}
    reasons = {c.precision: c.reason for c in manifest.compared}
    assert reasons["fp32"] == "" and reasons["bf16"] == "a gate failed: task metric: it lost 7 points"


def test_what_is_measured_is_kept_for_the_next_build(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path))
    config = BuildConfig(
        checkpoint=built.checkpoint, data=str(built.data), calibration=str(built.data), threads=1, out=tmp_path / "out"
    )
    start, traced = Start.of(config), list[str]()
    export = once.export_stage

    def counting(stage: Stage, config: CheckpointConfig, path: Path, precision: Precision) -> None:
        traced.append(precision)
        export(stage, config, path, precision)

    monkeypatch.setattr(once, "export_stage", counting)
    found = precision.compare(start, Console(quiet=True))
    whole, model = cut_stages(start.subject.model, [])[0], start.subject.model
    start.export(Stage(model, whole), model.config, tmp_path / "planned.onnx", "fp32")
    assert sorted(traced) == ["bf16", "fp32"]  # INT8 is made of fp32's graph, and the build takes it too
    assert {c.precision for c in found if c.milliseconds} == {"fp32", "bf16", "int8"}
    assert all(set(c.milliseconds) == {1, 8} and min(c.milliseconds.values()) > 0 for c in found)
    monkeypatch.setattr(precision, "measured", lambda *call: pytest.fail("it is measured again"))
    assert precision.compare(start, Console(quiet=True)) == found
    elsewhere = precision.compare(
        replace(start, target=replace(start.target, cannot_run="no GPU")), Console(quiet=True)
    )
    assert elsewhere[0].precision == "fp32" and "no GPU" in elsewhere[1].reason
