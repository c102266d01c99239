"""Builds over what is there already: machines added, engines taken over, and builds that were killed."""

from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engines.artifact import Artifact, digest_files
from engines.files import digest_tree
from engines.manifest_file import write_manifest
from pipeline import build
from pipeline.builder import plan, steps
from tests.gates.builds import classifier, run_verb


def test_another_machine_adds_its_engines(
    model: tuple[object, ...], copied: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Artifact.open(copied).manifest
    arguments = (*model, "--precision", "fp16", "--out", copied)
    # Engines that lie there have the plan of their machine; another machine may not plan anew.
    monkeypatch.setattr(plan, "choose_cuts", lambda *_: pytest.fail("planned again"))
    assert run_verb(build, *arguments, "--compute-capability", "8.9") == 0
    after = Artifact.open(copied).manifest
    assert after.plan == before.plan and after.files["plan.json"] == before.files["plan.json"]
    assert after.engines[: len(before.engines)] == before.engines and len(after.engines) == 2 * len(before.engines)
    assert {
        name: after.files[name] for name in before.files if name.startswith("engines/")
    }.items() <= after.files.items()
    assert len([gate for gate in after.gates if gate.name.startswith("fused attention")]) == 2
    assert len(compiled) == 2
    # For this machine there are engines now: they are not replaced unasked.
    assert run_verb(build, *arguments, "--compute-capability", "8.9") == 2


def test_what_did_not_change_is_taken_from_the_artifact_that_is_replaced(
    model: tuple[object, ...], copied: Path, compiled: list[str]
) -> None:
    before = Artifact.open(copied).manifest
    arguments = ("--precision", "fp16", "--out", copied, "--force")
    assert run_verb(build, *model, *arguments, "--samples", 8) == 0
    after = Artifact.open(copied).manifest
    assert not compiled and after.engines == before.engines and after.build_key != before.build_key
    assert all(after.files[record.file] == before.files[record.file] for record in after.engines)
    assert run_verb(build, *model, *arguments, "--buckets", "1x16,1x32,2x32") == 0
    assert compiled == ["stage_0.plan", "stage_1.plan"], "another profile is another engine"


def test_a_damaged_engine_is_not_taken_over(model: tuple[object, ...], copied: Path, compiled: list[str]) -> None:
    """Fault 22."""
    engine = copied / Artifact.open(copied).manifest.engines[0].file
    engine.write_bytes(engine.read_bytes()[:-1])
    assert run_verb(build, *model, "--precision", "fp16", "--out", copied, "--force") == 0
    assert compiled == [engine.name]
    Artifact.open(copied)


def test_timings_and_plugins_of_other_machines_stay_with_their_engines(
    model: tuple[object, ...], copied: Path, compiled: list[str]
) -> None:
    """As if the artifact came from a GPU host: its engines use the plugin, and its kernel timings lie beside them."""
    before = Artifact.open(copied, verify=False).manifest
    folder = str(Path(before.engines[0].file).parent)
    for name in (f"{folder}/timing.cache", "plugins/libskimrt_plugins.so"):
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_bytes(b"theirs")
    binding = before.engines[0].binding
    assert binding is not None
    theirs = {"binding": binding.model_copy(update={"plugin": "a" * 64})}
    bound = [record.model_copy(update=theirs) for record in before.engines]
    files = digest_files(copied)
    write_manifest(copied, before.model_copy(update={"engines": bound, "files": files}))
    arguments = ("--precision", "fp16", "--compute-capability", "8.9", "--out", copied)
    assert run_verb(build, *model, *arguments) == 0
    after = Artifact.open(copied).manifest
    assert after.engines[:2] == bound and len(compiled) == 2
    kept = [name for name in after.files if name.endswith(("timing.cache", ".so"))]
    assert sorted(kept) == [f"{folder}/timing.cache", "plugins/libskimrt_plugins.so"]


def test_what_an_interrupted_build_with_other_options_left_is_not_published(
    model: tuple[object, ...], tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the same build key, so it is resumed; its engines for another GPU are not those that are wanted."""
    out = tmp_path / "artifact"

    def interrupt(*call: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(steps, "engine_gates", interrupt)
        assert run_verb(build, *model, "--compute-capability", "8.6", "--out", out) == 130
    version = importlib.metadata.version("tensorrt-rtx-cu13")
    places = list((tmp_path / ".artifact.partial" / "artifact" / "engines").glob("*/*"))
    assert len(compiled) == 2 and [path.name for path in places] == [f"{version}-sm86"]
    (places[0] / "stage_0.plan.abc.partial").write_bytes(b"half")
    assert run_verb(build, *model, "--compute-capability", "8.9", "--out", out) == 0
    manifest = Artifact.open(out).manifest
    engines = {name for name in manifest.files if name.startswith("engines/")}
    assert engines == {name for r in manifest.engines for name in (r.file, r.report)} and len(compiled) == 4


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from pipeline import build
from pipeline.graph import once as stage_graphs
from pipeline.cli import main_of
from pipeline.builder.publish import Publisher
last, graphs = int(sys.argv.pop(1)), Path(sys.argv.pop(1))
stage_graphs.export_stage = lambda *call: shutil.copyfile(graphs / call[2].name, call[2])
mark, marked = Publisher.mark, []
def mark_and_die(self, step):
    mark(self, step)
    marked.append(step)
    if len(marked) == last:
        os.kill(os.getpid(), signal.SIGKILL)
Publisher.mark = mark_and_die
if last == 0:
    Publisher.publish = lambda self: os.kill(os.getpid(), signal.SIGKILL)
main_of(build.parser, build.run)
"""


@pytest.mark.parametrize(("marked", "left"), [(2, 2), (4, 1), (0, 0)], ids=["graphs", "engines", "publishing"])
def test_a_killed_build_leaves_the_old_artifact_and_goes_on(
    model: tuple[object, ...], tiny_tokenizer: Path, copied: Path, compiled: list[str], marked: int, left: int
) -> None:
    """Fault 24: in the middle of the graphs, of the engines, and before the artifact is published."""
    graphs = str(classifier(tiny_tokenizer).artifact / "stages")
    before = digest_tree(copied)
    arguments = list(map(str, [*model, "--compute-capability", "8.6", "--out", copied, "--force"]))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(marked), graphs, *arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert digest_tree(copied) == before
    Artifact.open(copied)
    assert run_verb(build, *arguments) == 0
    assert len(compiled) == left
    manifest = Artifact.open(copied).manifest
    assert manifest.plan.precision == "fp32" and len(manifest.engines) == 2
