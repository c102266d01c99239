"""Faults 22 and 23: whatever is wrong with the files of an artifact is named, before anything is loaded."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from engines import Runner
from engines.artifact import Artifact, digest_files
from engines.backends import BACKENDS
from engines.errors import InputError
from tests.engines.damaged import edit, refusal

FIRST_ENGINE, SECOND_ENGINE = "engines/cpu-fp32/stage_0.onnx", "engines/cpu-fp32/stage_1.onnx"


@pytest.fixture
def no_engine_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that gets as far as deserialising an engine."""
    for backend in BACKENDS:
        monkeypatch.setattr(type(backend), "load", lambda *arguments: pytest.fail("an engine was loaded"))


def test_a_whole_artifact_opens(copy: Path) -> None:
    artifact = Artifact.open(copy)
    assert artifact.manifest.max_length == 24
    assert artifact.file(FIRST_ENGINE) == copy / FIRST_ENGINE
    assert artifact.manifest.files == digest_files(copy)


def test_a_file_that_the_manifest_does_not_list_is_never_read(copy: Path) -> None:
    (copy / "report.html").write_text("added later")
    with pytest.raises(InputError, match=r"report\.html is not listed"):
        Artifact.open(copy).file("report.html")


def test_there_is_no_directory(tmp_path: Path) -> None:
    assert "expected a directory" in refusal(tmp_path / "none")


def test_there_is_no_manifest(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    assert "expected a file manifest.json, found none" in refusal(copy)


def test_the_manifest_is_a_link(copy: Path, tmp_path: Path) -> None:
    (copy / "manifest.json").rename(tmp_path / "elsewhere.json")
    (copy / "manifest.json").symlink_to(tmp_path / "elsewhere.json")
    assert "found a symbolic link" in refusal(copy)


@pytest.mark.parametrize(
    "path",
    ["../secret", "/etc/passwd", "engines/../../secret", "a\\b", "C:/x", "engines//x", "./x", "", ".", "x/", "a\0b"],
)
@pytest.mark.parametrize("where", ["files", "engine", "graph"])
def test_a_path_that_leaves_the_directory(copy: Path, path: str, where: str) -> None:
    def change(manifest: dict) -> None:
        if where == "files":
            manifest["files"][path] = "0" * 64
        elif where == "engine":
            manifest["engines"][0]["file"] = path
        else:
            manifest["plan"]["stages"][0]["graph"] = path

    edit(copy, change)
    said = refusal(copy)
    assert any(rule in said for rule in ("a relative path with forward slashes", "a plain path inside the artifact"))


def test_a_runner_reads_only_what_it_uses(copy: Path) -> None:
    (copy / "stages/stage_0.onnx").write_bytes(b"changed")
    assert Runner(copy)
    with pytest.raises(InputError, match=r"stages/stage_0\.onnx: expected SHA-256"):
        Artifact.open(copy)


def test_missing_and_changed_files_are_listed_together(copy: Path, no_engine_is_loaded: None) -> None:
    """Fault 22: one flipped bit, one truncated file, one that is gone."""
    flipped, cut, gone = SECOND_ENGINE, FIRST_ENGINE, "tokenizer/tokenizer.json"
    content = bytearray((copy / flipped).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / flipped).write_bytes(content)
    (copy / cut).write_bytes((copy / cut).read_bytes()[:-1])
    (copy / gone).unlink()
    message = refusal(copy)
    assert f"{gone}: missing" in message
    assert message.count("expected SHA-256") == 2 and flipped in message and cut in message


def test_without_verification_content_is_not_read_but_absence_is_seen(copy: Path) -> None:
    (copy / FIRST_ENGINE).write_bytes(b"")
    assert Artifact.open(copy, verify=False)
    (copy / FIRST_ENGINE).unlink()
    with pytest.raises(InputError, match="missing"):
        Artifact.open(copy, verify=False)


@pytest.mark.parametrize("linked", ["file", "directory", "dangling"])
def test_links_are_refused_even_when_the_content_is_right(copy: Path, tmp_path: Path, linked: str) -> None:
    part = copy / "stages" if linked == "directory" else copy / FIRST_ENGINE
    elsewhere = tmp_path / "elsewhere"
    part.rename(elsewhere)
    part.symlink_to(elsewhere)
    if linked == "dangling":
        elsewhere.unlink()
    assert "found a link" in refusal(copy)


@pytest.mark.parametrize("kind", ["hard link", "pipe"])
def test_only_regular_files_of_one_name_are_read(copy: Path, tmp_path: Path, kind: str) -> None:
    """Fault 15."""
    content = (copy / FIRST_ENGINE).read_bytes()
    (copy / FIRST_ENGINE).unlink()
    if kind == "pipe":
        os.mkfifo(copy / FIRST_ENGINE)
        assert "found a directory or a device" in refusal(copy)
    else:
        (tmp_path / "elsewhere").write_bytes(content)
        os.link(tmp_path / "elsewhere", copy / FIRST_ENGINE)
        assert "found one of 2 names of a file; copy the file itself" in refusal(copy)


def test_content_is_what_was_checked(copy: Path) -> None:
    """Fault 34."""
    artifact, expected = Artifact.open(copy), (copy / FIRST_ENGINE).read_bytes()
    content = artifact.content(FIRST_ENGINE)
    (copy / FIRST_ENGINE).write_bytes(b"another")
    assert content.tobytes() == expected and artifact.content(copy / FIRST_ENGINE) is content
    del content
    for _ in range(2):
        with pytest.raises(InputError, match=r"expected SHA-256 .*it was replaced, or changed, since it was opened"):
            artifact.content(FIRST_ENGINE)
    (copy / FIRST_ENGINE).unlink()
    with pytest.raises(InputError, match="No such file"):
        artifact.content(FIRST_ENGINE)
    with pytest.raises(InputError, match="is not listed"):
        artifact.content("report.html")


def test_a_directory_in_place_of_a_file(copy: Path) -> None:
    (copy / FIRST_ENGINE).unlink()
    (copy / FIRST_ENGINE).mkdir()
    assert "expected a regular file" in refusal(copy)


def test_digesting_refuses_links(copy: Path) -> None:
    (copy / "link").symlink_to(copy / FIRST_ENGINE)
    with pytest.raises(InputError, match="link"):
        digest_files(copy)


def test_what_the_system_refuses_is_named_and_not_called_damage(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(copy, lambda manifest: manifest["files"].update({"x" * 5000: "0" * 64}))
    assert "xxx: cannot be read: File name too long" in refusal(copy)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert refusal(copy).endswith("manifest.json: cannot be read: Permission denied")


def test_every_byte_of_a_manifest_counts(copy: Path) -> None:
    """Also those of a label or of a figure, which only the seal can miss."""
    path = copy / "manifest.json"
    content, generator = path.read_bytes(), random.Random(0)
    for place in {0, len(content) - 1, *generator.sample(range(len(content)), 300)}:
        for value in (content[place] ^ 1, content[place] ^ 0x20, ord("0")):
            changed = content[:place] + bytes([value]) + content[place + 1 :]
            if changed != content:
                path.write_bytes(changed)
                with pytest.raises(InputError) as caught:
                    Artifact.read(copy)
                assert "\n" not in str(caught.value), "one line"
