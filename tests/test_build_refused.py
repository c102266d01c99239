"""Builds that must not be: refused before anything is built where that can be known, and nothing published."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from engines.artifact import Artifact
from engines.backends import tensorrt
from engines.errors import InputError
from engines.files import digest_tree
from pipeline import build
from pipeline.builder import baseline, steps
from pipeline.builder.config import BuildConfig
from pipeline.builder.start import Start
from pipeline.graph import once as stage_graphs
from tests.gates.builds import Built, classifier, model_of, reversed_labels, run_verb


@pytest.fixture
def built(tiny_tokenizer: Path) -> Built:
    """The classifier of the session."""
    return classifier(tiny_tokenizer)


@pytest.fixture
def ready_graphs(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the classifier's graphs instead of exporting them again."""
    graphs = built.artifact / "stages"
    monkeypatch.setattr(stage_graphs, "export_stage", lambda *call: shutil.copyfile(graphs / call[2].name, call[2]))


def test_a_failed_gate_publishes_nothing(
    capsys: pytest.CaptureFixture[str], built: Built, tmp_path: Path, ready_graphs: None
) -> None:
    out = built.copied(tmp_path)
    before = digest_tree(tmp_path)
    assert run_verb(build, *model_of(built), "--dense", built.dense, "--out", out, "--force") == 3
    error = capsys.readouterr().err
    assert "task metric: the metric is" in error and "dense 1.0000" in error and "was not touched" in error
    after = {name: digest for name, digest in digest_tree(tmp_path).items() if not name.startswith(".artifact")}
    assert after == before
    Artifact.open(tmp_path / ".artifact.partial" / "artifact")  # what failed is whole, to be looked into


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_dense_model_of_another_task_is_refused_before_anything_is_built(
    capsys: pytest.CaptureFixture[str], built: Built, tmp_path: Path, precision: str
) -> None:
    other, out = reversed_labels(built, tmp_path), tmp_path / "out" / "artifact"
    given = (*model_of(built), "--precision", precision, "--out", out)
    assert run_verb(build, *given, "--dense", other) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: --dense {other}, which has another task; name a checkpoint with the model's labels"
    )
    assert "expected a classification of 3 in the order no, maybe, yes, found " in error
    config = BuildConfig(checkpoint=built.checkpoint, dense=other, data=str(built.data), precision=precision, out=out)
    with pytest.raises(InputError, match="which has another task"):
        steps.build(config, Console())
    assert not out.parent.exists()


def test_an_artifact_is_not_replaced_unasked(capsys: pytest.CaptureFixture[str], built: Built) -> None:
    before = digest_tree(built.artifact)
    assert run_verb(build, *model_of(built), "--out", built.artifact) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert digest_tree(built.artifact) == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--target", "tensorrt"), 4, "no NVIDIA driver is installed. --export-only writes"),
        (("--precision", "fp16"), 2, "precision 'fp16': expected one of fp32, bf16, int8"),
        (("--export-only",), 2, "the target cpu is built on any machine"),
        (("--plugin",), 2, "plugin: the target cpu has no such option"),
        (("--compute-capability", "8.0"), 2, "compute capabilities: the target cpu has no such option"),
        (("--timing-cache", "kept"), 2, "timing cache: the target cpu times no kernels; leave it out"),
        (("--timing-cache", "kept", "--target", "tensorrt", "--export-only"), 2, "timing cache: nothing is compiled"),
        (("--optimization-level", "6"), 2, "optimization_level: "),
        (("--buckets", "1x16"), 2, "the longest is 16, the model takes 32"),
        (("--buckets", "1x16,ax"), 2, "expected batch x length"),
        (("--stages", "7"), 2, "2 decision points, so 1 to 3 stages"),
        (("--stages", "1,5"), 2, "decides at layers [0, 1]"),
        (("--data", "no-such-set"), 2, "expected a named set"),
        (("--checkpoint", "nowhere"), 2, "nowhere: expected checkpoint.json"),
        (("--samples", "0"), 2, "samples: "),
        (("--samples", "many"), 2, "invalid int value"),
    ],
)
def test_bad_arguments_leave_nothing_behind(
    capsys: pytest.CaptureFixture[str],
    built: Built,
    tmp_path: Path,
    arguments: tuple[str, str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: "no NVIDIA driver is installed")
    assert run_verb(build, *model_of(built), "--out", tmp_path / "artifact", *arguments) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


def test_nothing_is_built_in_front_of_an_error_that_can_be_known(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(baseline, "build_from", lambda *_: pytest.fail("something was built"))
    for arguments, message in (
        (("--out", built.artifact), "it already holds an artifact; --force replaces it"),
        (("--stages", "9", "--out", tmp_path / "a"), "stages 9: this ltp model has 2 decision points"),
        (("--dense", tmp_path / "none", "--out", tmp_path / "a"), str(tmp_path / "none")),
    ):
        assert run_verb(build, *model_of(built), *arguments) == 2
        assert message in capsys.readouterr().err
    wrong = ("--checkpoint", tmp_path / "none", "--data", "nosuch", "--buckets", "foo", "--out", tmp_path / "a")
    assert run_verb(build, *wrong) == 2
    error = capsys.readouterr().err
    assert "3 problem(s)" in error and all(name in error for name in (str(tmp_path / "none"), "nosuch", "foo"))


def test_another_artifact_in_the_place_of_the_dense_one_stays(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(built.artifact, tmp_path / "a-dense")
    before = (copy / "manifest.json").read_bytes()
    assert run_verb(build, *model_of(built), "--dense", built.dense, "--out", tmp_path / "a") == 2
    assert f"is built as {copy}, where there is an artifact of" in capsys.readouterr().err
    assert (copy / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("manifest", ['{"manifest_version": 3}', None])
def test_a_directory_in_the_place_of_the_dense_artifact_stays(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture, manifest: str | None
) -> None:
    """Fault 35."""
    theirs = tmp_path / "a-dense"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("years of work")
    if manifest is not None:
        (theirs / "manifest.json").write_text(manifest)
    assert run_verb(build, *model_of(built), "--dense", built.dense, "--out", tmp_path / "a") == 2
    assert f"is built as {theirs}, where there is something that is no artifact" in capsys.readouterr().err
    assert (theirs / "thesis.tex").read_text() == "years of work" and not (tmp_path / "a").exists()


def test_the_dense_artifact_is_known_by_any_name_of_its_model(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert built.dense is not None
    artifact = built.copied(tmp_path)
    link, copy = tmp_path / "link", shutil.copytree(built.dense, tmp_path / "copy")
    link.symlink_to(built.dense)
    monkeypatch.setattr(baseline, "build_from", lambda *_: None)
    monkeypatch.setattr(baseline, "_is_current", lambda _: False)  # as with other settings
    for other in (link, copy):
        config = BuildConfig(checkpoint=built.checkpoint, dense=other, data=str(built.data), out=artifact)
        assert baseline.dense_artifact(Start.of(config), Console()) == artifact.with_name("artifact-dense")


def test_the_planner_needs_an_engine_for_every_batch_size(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--checkpoint", built.checkpoint, "--data", built.data, "--samples", "2", "--precision", "fp32")
    assert run_verb(build, *arguments, "--max-profiles", "1", "--out", tmp_path / "a") == 2
    assert "--max-profiles 1: expected at least 2, one for every batch size" in capsys.readouterr().err
