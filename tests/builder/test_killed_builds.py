"""Builds that are interrupted or killed: what a resume takes up, and what is at `out` meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from engines.errors import InputError
from pipeline.builder import publish
from pipeline.builder.publish import Publisher
from tests.builder.publishing import build, content, manifest_of


def interrupted(out: Path, key: str, resume: bool) -> list[bool]:
    """A build that stops after its second step; returns which steps it found done."""
    found = []
    with pytest.raises(KeyboardInterrupt), Publisher(out, key, resume=resume) as publisher:
        for step in ("export", "engine"):
            found.append(publisher.done(step))
            (publisher.path / step).write_text("x")
            publisher.mark(step)
        raise KeyboardInterrupt
    return found


def test_resume_goes_on_with_marked_steps_of_the_same_key_only(tmp_path: Path) -> None:
    out = tmp_path / "artifact"
    assert interrupted(out, "k", resume=False) == [False, False]
    half = tmp_path / ".artifact.partial" / "artifact" / f".{'0' * 32}.partial"
    half.write_text("of a file, when a builder was killed")
    assert interrupted(out, "k", resume=True) == [True, True]
    assert not half.exists()
    assert interrupted(out, "k", resume=False) == [False, False], "without --resume a build starts anew"
    assert interrupted(out, "other", resume=True) == [False, False], "the inputs changed"


def test_a_damaged_progress_file_starts_anew(tmp_path: Path) -> None:
    out = tmp_path / "artifact"
    interrupted(out, "k", resume=False)
    (tmp_path / ".artifact.partial" / "progress.json").write_text('{"key": "k", "do')
    with Publisher(out, "k", resume=True) as publisher:
        assert not publisher.done("export")
        assert list(publisher.path.iterdir()) == []


def killed_build(out: Path, at: int, atomic: bool) -> None:
    """A build that is killed in front of its `at`-th call that changes the file system."""
    calls = 0

    def killing(function):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    for name in ("rename", "replace", "fsync", "open", "unlink", "rmdir", "mkdir"):
        setattr(os, name, killing(getattr(os, name)))
    publish._exchange = killing(publish._exchange if atomic else lambda one, other: False)
    build(out, "two", force=True)


@pytest.mark.parametrize("atomic", [True, False])
def test_killed_at_any_point_there_is_the_old_artifact_or_the_new_one(tmp_path: Path, atomic: bool) -> None:
    """For every point until a build comes through. Without an exchange the next builder restores the old one."""
    out, seen = tmp_path / "artifact", set()
    if atomic and not publish._exchange(*_two_directories(tmp_path)):
        pytest.skip("this file system cannot exchange two directories")
    for at in range(1, 200):
        if not out.exists() or content(out) != "one":
            build(out, "one", force=True)
        process = multiprocessing.get_context("fork").Process(target=killed_build, args=(out, at, atomic))
        process.start()
        process.join()
        if atomic:
            seen.add(content(out))
        with pytest.raises(InputError, match="--force"), Publisher(out, "k"):
            pass
        seen.add(content(out))
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert process.exitcode == 0 and at > 10 and seen == {"one", "two"}


def _two_directories(tmp_path: Path) -> tuple[Path, Path]:
    pair = tmp_path / "a", tmp_path / "b"
    for directory in pair:
        directory.mkdir()
    return pair


def test_what_was_replaced_is_never_taken_for_the_work_of_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exchange leaves the old artifact in the place of the new one's work."""
    out = tmp_path / "artifact"
    build(out, "one")

    def interrupt(publisher: Publisher) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "_tidy", interrupt)
        with pytest.raises(KeyboardInterrupt), Publisher(out, "k", force=True) as publisher:
            (publisher.path / publish.MANIFEST_NAME).write_text(manifest_of("two"))
            publisher.mark("step")
            publisher.publish()
    with Publisher(out, "k", force=True, resume=True) as publisher:
        assert not publisher.done("step") and not list(publisher.path.iterdir())
