"""Publishing: the old artifact or the new one after any crash, one builder at a time, and resuming."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from engines.errors import InputError
from pipeline.builder.publish import Publisher
from tests.builder.publishing import build, content


def test_a_published_build_is_all_that_is_left(tmp_path: Path) -> None:
    build(tmp_path / "artifact", "one")
    assert content(tmp_path / "artifact") == "one"
    left = {path.name for path in tmp_path.iterdir()} - {".artifact.lock"}
    assert left == {"artifact"}


def test_all_of_a_build_is_on_the_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 24: every file and directory of it is flushed, then renamed, then the directory above is flushed."""
    out, flushed, appeared = tmp_path / "artifact", set[int](), list[bool]()
    fsync, rename = os.fsync, os.rename

    def flush(handle: int) -> None:
        flushed.add(os.fstat(handle).st_ino)
        fsync(handle)

    def appear(source: Path, target: Path) -> None:
        if Path(target) == out:
            appeared.append({path.stat().st_ino for path in (source, *source.rglob("*"))} <= flushed)
            flushed.clear()
        rename(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "rename", appear)
    build(out, "one")
    assert appeared == [True] and tmp_path.stat().st_ino in flushed


def test_nothing_is_visible_before_publish(tmp_path: Path) -> None:
    with Publisher(tmp_path / "artifact", key="k") as publisher:
        (publisher.path / "manifest.json").write_text("one")
        assert not (tmp_path / "artifact").exists()
    assert not (tmp_path / "artifact").exists()


def test_an_artifact_is_replaced_only_with_force(tmp_path: Path) -> None:
    build(tmp_path / "artifact", "one")
    with pytest.raises(InputError, match="--force"):
        build(tmp_path / "artifact", "two")
    assert content(tmp_path / "artifact") == "one"
    build(tmp_path / "artifact", "two", force=True)
    assert content(tmp_path / "artifact") == "two"


def test_a_directory_that_is_no_artifact_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="no artifact"):
        build(tmp_path / "home", "one", force=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    "manifest",
    ['{"manifest_version": 3}', '{"name": "a web app", "files": ["a"]}', "[]", "", "{" * 100_000, '{"files": {}}'],
)
def test_a_manifest_of_another_program_makes_no_artifact(tmp_path: Path, manifest: str) -> None:
    """Fault 35."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text(manifest)
    with pytest.raises(InputError, match="no artifact"):
        build(tmp_path / "app", "one", force=True)
    assert (tmp_path / "app" / "manifest.json").read_text() == manifest


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("name", ["thesis.tex", "engines/thesis.tex", "link"])
def test_somebodys_file_in_an_artifact_keeps_it_from_being_replaced(tmp_path: Path, name: str, when: str) -> None:
    """Fault 35."""
    out = tmp_path / "artifact"
    build(out, "one")

    def put() -> None:
        (out / name).symlink_to(tmp_path) if name == "link" else (out / name).write_text("years of work")

    if when == "before":
        put()
    with (
        pytest.raises(InputError, match=f"it holds {name}, which no build has written"),
        Publisher(out, "k", force=True) as publisher,
    ):
        if when == "meanwhile":
            put()
        publisher.publish()
    assert os.path.lexists(out / name) and content(out) == "one"


def test_what_the_scripts_of_an_artifact_compile_belongs_to_it(tmp_path: Path) -> None:
    build(tmp_path / "artifact", "one")
    (tmp_path / "artifact" / "trtexec").mkdir()
    (tmp_path / "artifact" / "trtexec" / "stage_0.plan").write_text("compiled")
    build(tmp_path / "artifact", "two", force=True)
    assert content(tmp_path / "artifact") == "two"


@pytest.mark.parametrize("what", ["file", "link", "directory", "artifact is a link"])
def test_somebody_elses_things_where_work_would_lie_are_kept(tmp_path: Path, what: str) -> None:
    """Fault 35."""
    work, theirs = tmp_path / ".artifact.partial", tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("years of work")
    if what == "file":
        work.write_text("years of work")
    elif what == "link":
        work.symlink_to(theirs)
    elif what == "directory":
        theirs.rename(work)
    else:
        work.mkdir()
        (work / "artifact").symlink_to(theirs)
    with pytest.raises(InputError, match="left alone"):
        build(tmp_path / "artifact", "one", force=True)
    assert "years of work" in {path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_a_link_is_left_alone(tmp_path: Path, kind: str) -> None:
    (tmp_path / "target").mkdir()
    out = tmp_path / "artifact"
    out.write_text("mine") if kind == "file" else out.symlink_to(tmp_path / "target")
    with pytest.raises(InputError, match="left alone"):
        build(out, "one", force=True)
    assert out.is_symlink() == (kind == "link")


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    build(tmp_path / "artifact", "one")
    assert content(tmp_path / "artifact") == "one"


@pytest.mark.parametrize("name", ["/", ".."])
def test_out_must_have_a_name(name: str) -> None:
    with pytest.raises(InputError, match="name of a directory"):
        Publisher(Path(name), key="k")


def test_a_second_builder_waits_for_the_lock_and_then_says_so(tmp_path: Path) -> None:
    """Fault 25."""
    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with Publisher(tmp_path / "artifact", key="k"):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(30)
    with pytest.raises(InputError, match="another build"), Publisher(tmp_path / "artifact", "k", timeout=0.1):
        pass
    leave.set()
    thread.join()
    build(tmp_path / "artifact", "one")


def test_a_lock_left_by_a_dead_process_does_not_hold(tmp_path: Path) -> None:
    """Fault 25."""
    code = f"""
        import os
        from pathlib import Path
        from pipeline.builder.publish import Publisher
        publisher = Publisher(Path({str(tmp_path / "artifact")!r}), key="k").__enter__()
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert (tmp_path / ".artifact.lock").exists()
    build(tmp_path / "artifact", "one", timeout=0.1)
    assert content(tmp_path / "artifact") == "one"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_or_read_only_disk_is_an_input_error_and_keeps_the_old_artifact(tmp_path: Path, code: int) -> None:
    build(tmp_path / "artifact", "one")
    with (
        pytest.raises(InputError, match=os.strerror(code)),
        Publisher(tmp_path / "artifact", "k", force=True) as publisher,
    ):
        (publisher.path / "half").write_text("x")
        raise OSError(code, os.strerror(code))
    assert content(tmp_path / "artifact") == "one"


def test_a_parent_that_is_a_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        build(tmp_path / "file" / "artifact", "one")


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Publisher(tmp_path / "artifact", "k"):
        _ = 1 / 0


def test_the_path_that_fails_is_named(tmp_path: Path) -> None:
    other = tmp_path / "calibration.tsv"
    with (
        pytest.raises(InputError, match=f"^{other}: cannot be read or written: Permission denied"),
        Publisher(tmp_path / "artifact", "k"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", str(other))
    with (
        pytest.raises(InputError, match=f"^--out {tmp_path / 'artifact'}: cannot be written"),
        Publisher(tmp_path / "artifact", "k") as publisher,
    ):
        raise PermissionError(errno.EACCES, "Permission denied", str(publisher.path / "stage_0.onnx"))
