"""python -m pipeline.inspect: everything from the manifest, no engine loaded, damage refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engines.artifact import Artifact
from engines.errors import InputError
from engines.manifest import Gate
from engines.manifest_file import write_manifest
from pipeline import inspect
from tests.engines.toy import Toy


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    directory = Toy(head="tagging").write(tmp_path_factory.mktemp("inspect") / "artifact", tiny_tokenizer)
    gates = [
        Gate(name="reference", status="PASSED", figures={"largest difference": 1.25e-6, "texts": 256}),
        Gate(name="task metric", status="SKIPPED", reason="no labels"),
    ]
    write_manifest(directory, Artifact.open(directory).manifest.model_copy(update={"gates": gates}))
    return directory


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert inspect.run(inspect.parser().parse_args(list(map(str, arguments)))) == 0
    return capsys.readouterr().out


def test_people_see_model_stages_engines_and_gates(artifact: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = shown(capsys, artifact)
    for part in (
        "tagging: O, B",
        "24 tokens",
        "digests match",
        "stages/stage_2.onnx",
        "stages/head.onnx",
        "1x4,1x8,1x12,1x24,3x4,3x8,3x12,3x24",
        "largest difference 1.25e-06, texts 256",
        "PASSED",
        "SKIPPED",
        "no labels",
    ):
        assert part in text


def test_programs_get_the_manifest_and_the_sizes(artifact: Path, capsys) -> None:
    found = json.loads(shown(capsys, artifact, "--json"))
    sizes = found.pop("sizes")
    written = json.loads((artifact / "manifest.json").read_text())
    assert len(written.pop("seal")) == 64 and found == written
    assert sizes["tokenizer/tokenizer.json"] == (artifact / "tokenizer" / "tokenizer.json").stat().st_size


def test_damage_is_refused_unless_digests_are_not_asked_for(artifact: Path, capsys, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(artifact, tmp_path / "artifact"))
    (copy / "stages" / "stage_0.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"stages/stage_0\.onnx"):
        shown(capsys, copy)
    assert "digests not checked" in shown(capsys, copy, "--no-verify")


def test_no_engine_and_no_provider_is_loaded(artifact: Path) -> None:
    code = (
        "import sys; from pipeline import inspect;"
        f"inspect.run(inspect.parser().parse_args([{str(artifact)!r}, '--json']));"
        "print({'torch', 'onnx', 'openvino', 'onnxruntime', 'tensorrt'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


def test_exit_code_of_what_is_no_artifact(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.inspect", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "expected a file manifest.json" in done.stderr


def test_names_may_hold_brackets(artifact: Path, capsys, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(artifact, tmp_path / "[red]artifact"))
    manifest = Artifact.open(copy).manifest
    head = manifest.head.model_copy(update={"labels": ["[neg]", "[/pos]"]})
    write_manifest(copy, manifest.model_copy(update={"head": head}))
    assert "tagging: [neg], [/pos]" in shown(capsys, copy)
