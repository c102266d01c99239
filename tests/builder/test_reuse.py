"""What a build takes from an artifact that is there: whole files only, and timings that are its own to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engines.artifact import Artifact, digest_files
from engines.binding import Binding
from engines.buckets import Bucket
from engines.manifest import EngineRecord
from engines.manifest_file import write_manifest
from pipeline.builder.reuse import Previous
from tests.engines.conftest import toy_artifact  # noqa: F401 (a fixture)
from tests.engines.toy import Toy

KEY = "a" * 64


@pytest.fixture
def artifact(toy_artifact, tmp_path: Path) -> Artifact:  # noqa: F811
    """Engines with keys, and timings and a plugin library beside them."""
    place = Path(shutil.copytree(toy_artifact(Toy()), tmp_path / "artifact"))
    manifest = Artifact.open(place).manifest
    for name in (timings_of(manifest.engines[0]), "plugins/library.so"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"theirs")
    keyed = [record.model_copy(update={"key": KEY}) for record in manifest.engines]
    changed = {"engines": keyed, "files": digest_files(place)}
    write_manifest(place, manifest.model_copy(update=changed))
    return Artifact.open(place)


def timings_of(record: EngineRecord) -> str:
    """Where the timings of an engine's machine lie."""
    return f"{Path(record.file).parent}/timing.cache"


def test_an_engine_is_taken_by_its_key_and_name(artifact: Artifact, tmp_path: Path) -> None:
    held, record = Previous(artifact, tmp_path / "root"), artifact.manifest.engines[0]
    name, buckets = record.file, record.profiles
    assert not held.take("b" * 64, name, buckets) and not held.take(KEY, "engines/none.plan", buckets)
    assert not held.take(KEY, name, [*buckets, Bucket(batch=9, length=9)]), "a profile of it could not be built"
    assert not (tmp_path / "root").exists()
    assert held.take(KEY, name, buckets[::-1])
    assert (tmp_path / "root" / name).read_bytes() == artifact.file(name).read_bytes()
    assert not Previous(None, tmp_path / "root").take(KEY, name, buckets)


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_file_is_left_where_it_is(artifact: Artifact, tmp_path: Path, damage: str) -> None:
    """Fault 22."""
    held, record = Previous(artifact, tmp_path / "root"), artifact.manifest.engines[0]
    path = artifact.file(record.file)
    path.unlink() if damage == "gone" else path.write_bytes(b"another")
    assert not held.take(KEY, record.file, record.profiles)
    assert record not in held.keep(artifact.manifest.engines)


def test_what_a_build_changes_is_a_copy(artifact: Artifact, tmp_path: Path) -> None:
    name = timings_of(artifact.manifest.engines[0])
    Previous(artifact, tmp_path / "root").take_timings(str(Path(name).parent))
    (tmp_path / "root" / name).write_bytes(b"ours")
    assert artifact.file(name).read_bytes() == b"theirs"
    Previous(artifact, tmp_path / "root").take_timings(str(Path(name).parent))
    assert (tmp_path / "root" / name).read_bytes() == b"ours", "a build that is resumed has its own"


def test_shared_timings_come_first_and_are_written_back(artifact: Artifact, tmp_path: Path) -> None:
    folder = str(Path(artifact.manifest.engines[0].file).parent)
    kept, used = tmp_path / "kept", tmp_path / "root" / folder / "timing.cache"
    held = Previous(artifact, tmp_path / "root", kept)
    held.take_timings(folder)
    assert used.read_bytes() == b"theirs", "there is no shared file yet"
    held.share_timings(folder)
    assert kept.read_bytes() == b"theirs"
    kept.write_bytes(b"shared")
    used.unlink()
    held.take_timings(folder)
    assert used.read_bytes() == b"shared"


@pytest.mark.parametrize("plugin", [None, KEY])
def test_engines_of_another_machine_come_with_what_they_need(
    artifact: Artifact, tmp_path: Path, plugin: str | None
) -> None:
    binding = Binding(library="tensorrt", version="11.4", compute_capabilities=("9.0",), plugin=plugin)
    bound = [record.model_copy(update={"binding": binding}) for record in artifact.manifest.engines]
    assert Previous(artifact, tmp_path / "root").keep(bound) == bound
    found = {path.relative_to(tmp_path / "root").as_posix() for path in (tmp_path / "root").rglob("*.*")}
    libraries = {"plugins/library.so"} if plugin else set()
    assert found == {*(record.file for record in bound), timings_of(bound[0])} | libraries


def test_timings_that_cannot_be_shared_do_not_end_a_build(
    artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = str(Path(timings_of(artifact.manifest.engines[0])).parent)
    (tmp_path / "file").write_text("")
    held = Previous(artifact, tmp_path / "root", tmp_path / "file" / "timing.cache")
    held.take_timings(folder)
    held.share_timings(folder)
    assert "--timing-cache" in caplog.text and "cannot be written" in caplog.text
