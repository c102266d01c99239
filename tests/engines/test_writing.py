"""Writing: whole files or none, flushed before they appear, by one process at a time, and never through a link."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import writing
from engines.errors import InputError
from engines.writing import locked, output_file, remove_partials, share_as_new, sibling, whole_file, write_whole


@pytest.fixture
def umask() -> Iterator[None]:
    """A umask that lets the group read, as shared clusters have it."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("there", [b"old", None])
def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, there: bytes | None) -> None:
    path = tmp_path / "file"
    if there is not None:
        path.write_bytes(there)
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert (path.read_bytes() if path.exists() else None) == there
    write_whole(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_nothing_appears_before_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 24: the content is flushed, then renamed, then the directory is flushed."""
    calls: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def flush(handle: int) -> None:
        calls.append(("fsync", os.fstat(handle).st_ino))
        fsync(handle)

    def rename(source: Path, target: Path) -> None:
        calls.append(("replace", source.stat().st_ino))
        assert source.read_bytes() == b"content"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    write_whole(tmp_path / "file", b"content")
    file, directory = (tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino
    assert calls == [("fsync", file), ("replace", file), ("fsync", directory)]


def test_a_link_is_replaced_and_what_it_points_to_is_kept(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "file").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "file").is_symlink() and (tmp_path / "file").read_bytes() == b"new"


@given(st.text("abcdefäß漢", min_size=1, max_size=120).filter(lambda name: len(name.encode()) <= 255))
def test_any_name_that_the_system_takes_can_be_written(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    directory = tmp_path_factory.mktemp("names")
    with output_file(directory / name) as file:
        file.write(b"content")
    assert [path.name for path in directory.iterdir()] == [name]
    assert len(os.fsencode(sibling(directory / name, "partial").name)) <= 255


def test_new_files_are_the_users_and_old_ones_keep_their_permissions(tmp_path: Path, umask: None) -> None:
    write_whole(tmp_path / "new", b"")
    assert mode_of(tmp_path / "new") == 0o640
    (tmp_path / "secret").touch(0o600)
    write_whole(tmp_path / "secret", b"new")
    assert mode_of(tmp_path / "secret") == 0o600
    (tmp_path / "made by a library").touch(0o600)
    share_as_new(tmp_path / "made by a library")
    assert mode_of(tmp_path / "made by a library") == 0o640


def test_what_a_user_names_is_written_where_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with output_file(tmp_path / "link") as file:
        file.write(b"content")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"content"
    with output_file(Path(os.devnull)) as file:
        file.write(b"content")
    assert not Path(os.devnull).is_file()
    with pytest.raises(FileNotFoundError), output_file(tmp_path / "none" / "file"):
        pass
    assert not (tmp_path / "none").exists()


def test_two_writers_of_one_file_are_kept_apart(tmp_path: Path) -> None:
    """Fault 35."""
    with output_file(tmp_path / "file") as file:
        file.write(b"first")
        with pytest.raises(InputError, match="another process is writing it"), output_file(tmp_path / "file"):
            pass
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "the lock is gone too"


def test_locks_exclude_each_other_although_they_are_removed(tmp_path: Path) -> None:
    inside, most, done = 0, 0, []

    def work() -> None:
        nonlocal inside, most
        for _ in range(10):
            with locked(tmp_path / "file", "file", timeout=30):
                inside += 1
                most = max(most, inside)
                time.sleep(0.002)
                inside -= 1
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and len(done) == 4 and not list(tmp_path.iterdir())


def test_somebody_elses_file_of_the_locks_name_is_kept(tmp_path: Path) -> None:
    theirs = sibling(tmp_path / "file", "lock")
    theirs.write_text("4711")
    with locked(tmp_path / "file", "file"):
        pass
    assert theirs.read_text() == "4711"
    theirs.unlink()
    theirs.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError), locked(tmp_path / "file", "file"):
        pass
    assert not (tmp_path / "victim").exists()


def test_only_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    kept = [tmp_path / ".mine.partial", tmp_path / "stage_0.plan.x.partial", tmp_path / ("." + "0" * 32 + ".partial")]
    for path in kept[:2]:
        path.touch()
    kept[2].symlink_to(kept[0])
    left, _ = writing._new_file(tmp_path)
    remove_partials(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept) and not left.exists()
