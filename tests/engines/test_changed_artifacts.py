"""Artifacts that change under a runner, or whose manifest is not that of their files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from weakref import WeakValueDictionary

import pytest

from engines import Runner, files
from engines.backends import cpu_graph
from engines.buckets import parse_buckets
from engines.errors import InputError
from engines.manifest_file import sealed
from tests.engines.toy import Toy, words


def test_an_artifact_that_is_replaced_is_not_mixed_with_the_one_that_was_opened(
    toy_artifact, tmp_path: Path, provider: str
) -> None:
    """Fault 34."""
    path = Path(shutil.copytree(toy_artifact(Toy()), tmp_path / "artifact"))
    runner, idle = Runner(path, provider=provider), Runner(path, provider=provider)
    before = runner([words(2), words(20)])
    other = Path(shutil.copytree(toy_artifact(Toy(thresholds=(-0.3, -0.2))), tmp_path / "other"))
    path.rename(tmp_path / "old")
    other.rename(path)
    assert runner([words(2), words(20)]) == before, "its engines are loaded"
    with pytest.raises(InputError, match="it was replaced, or changed, since it was opened; open it again"):
        idle([words(20)])
    assert len(Runner(path, provider=provider)([words(20)])) == 1


def test_an_artifact_of_the_same_bytes_is_the_same(toy_artifact, tmp_path: Path) -> None:
    path = Path(shutil.copytree(toy_artifact(Toy()), tmp_path / "artifact"))
    runner = Runner(path)
    shutil.copytree(path, tmp_path / "other")
    path.rename(tmp_path / "old")
    (tmp_path / "other").rename(path)
    assert runner([words(20)]) == Runner(path)([words(20)])


@pytest.mark.parametrize("change", ["cut", "written over", "gone"])
@pytest.mark.parametrize("loaded", [True, False])
def test_files_that_change_under_a_runner_change_no_answer(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch, provider: str, loaded: bool, change: str
) -> None:
    """Fault 34: cut is what kills a process that has mapped the file."""
    monkeypatch.setattr(cpu_graph, "_SHARED_FROM", 64)
    path = Toy().write(tmp_path / "artifact", tiny_tokenizer, parse_buckets("1x24"))
    right = [prediction.logits for prediction in Runner(path, provider=provider, threads=1)([words(9)])]
    monkeypatch.setattr(files, "_CONTENTS", WeakValueDictionary())  # the first runner may not have been collected yet
    runner = Runner(path, provider=provider, threads=1)
    if loaded:
        runner.warm_up()
    weights = list(path.glob("engines/*/*.weights"))
    assert weights
    for file in weights:
        if change == "cut":
            os.truncate(file, 0)
        elif change == "gone":
            file.unlink()
        else:
            with file.open("r+b") as opened:
                opened.write(bytes(file.stat().st_size))
    if loaded:
        assert [prediction.logits for prediction in runner([words(9)])] == right
    else:
        with pytest.raises(InputError, match="it was replaced, or changed, since it was opened"):
            runner([words(9)])


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2)])
def test_engines_that_the_manifest_confuses_are_refused(toy_artifact, tmp_path: Path, provider, one, other) -> None:
    path = Path(shutil.copytree(toy_artifact(Toy()), tmp_path / "artifact"))
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    files = {record["stage"]: record["file"] for record in manifest["engines"]}
    for record in manifest["engines"]:
        record["file"] = files[{one: other, other: one}.get(record["stage"], record["stage"])]
    (path / "manifest.json").write_bytes(sealed(manifest))
    with pytest.raises(InputError, match=r"expected an engine that (takes|returns)"):
        Runner(path, provider=provider)([words(2)])


def test_weights_that_the_manifest_does_not_list_are_not_read(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch, provider: str
) -> None:
    """Fault 34: they lie beside the engine, are what was built, and nothing vouches for them."""
    monkeypatch.setattr(cpu_graph, "_SHARED_FROM", 64)
    path = Toy().write(tmp_path / "artifact", tiny_tokenizer, parse_buckets("1x24"))
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    for name in [name for name in manifest["files"] if name.endswith(".weights")]:
        del manifest["files"][name]
    (path / "manifest.json").write_bytes(sealed(manifest))
    with pytest.raises(InputError, match=r"\.weights is used but has no digest"):
        Runner(path, provider=provider)([words(9)])
