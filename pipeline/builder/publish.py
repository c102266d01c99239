"""Publishing a build: written beside the old artifact, resumable, and swapped in whole at the end.

After a crash at any point `out` is what it was before or the finished build, never a mix.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from engines.artifact import MANIFEST_NAME
from engines.errors import InputError

_PROGRESS_NAME = "progress.json"
_STORAGE_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EIO,
}


class Publisher:
    """Holds the lock of an output directory while a build writes into `path`, a temporary sibling.

        with Publisher(out, key, force, resume) as publisher:
            if not publisher.done("export"):
                export(publisher.path)
                publisher.mark("export")
            publisher.publish()

    out:     where the artifact appears when `publish` is called, and not before.
    key:     what the build depends on; work left by a build of another key is never resumed.
    force:   replaces an artifact that is already there. Anything else that is there is never replaced.
    resume:  goes on with the steps that an interrupted build of the same key has marked.
    timeout: seconds to wait for another build of the same `out`.

    Entering raises InputError when `out` is taken, locked or not writable. Leaving without `publish` keeps
    the work for a resume; an error of the file system comes out as an InputError that says what to do.
    """

    def __init__(self, out: Path, key: str, force: bool = False, resume: bool = False, timeout: float = 10.0) -> None:
        if not out.name or out.name == "..":
            raise InputError(f"--out {out}: expected the name of a directory to write, such as artifact")
        self.out = out.parent.resolve() / out.name
        self.path = self._sibling("partial") / "artifact"
        self._key, self._force, self._resume, self._timeout = key, force, resume, timeout
        self._lock = FileLock(self._sibling("lock"))
        self._done: list[str] = []

    def __enter__(self) -> Publisher:
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=self._timeout)
        except Timeout:
            raise InputError(
                f"--out {self.out}: another build is writing it (waited {self._timeout:g} s for its lock); "
                "let it finish or choose another directory"
            ) from None
        except OSError as error:
            raise self._cannot_write(error) from None
        try:
            self._recover()
            self._check_free()
            self._prepare()
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError) and not isinstance(error, InputError):
                raise self._cannot_write(error) from None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
            raise self._cannot_write(error) from error

    def done(self, step: str) -> bool:
        """Whether the build that is resumed has marked the step."""
        return step in self._done

    def mark(self, step: str) -> None:
        """Records that a step's files are complete."""
        self._done.append(step)
        self._write_progress()

    def publish(self) -> None:
        """Makes the build the content of `out`, all at once."""
        _sync_tree(self.path)
        # What an exchange leaves in the place of this build is the old artifact, which no resume may take for its work.
        (self._sibling("partial") / _PROGRESS_NAME).unlink()
        if not self.out.exists():
            os.rename(self.path, self.out)
        elif not _exchange(self.path, self.out):
            # There is a moment with nothing at `out`; after a crash in it `_recover` brings the old one back.
            os.rename(self.out, self._sibling("old"))
            os.rename(self.path, self.out)
        _sync(self.out.parent)
        self._tidy()

    def _sibling(self, kind: str) -> Path:
        return self.out.with_name(f".{self.out.name}.{kind}")

    def _recover(self) -> None:
        old = self._sibling("old")
        if old.exists() and not self.out.exists():
            os.rename(old, self.out)
        shutil.rmtree(old, ignore_errors=True)

    def _check_free(self) -> None:
        if self.out.is_symlink() or (self.out.exists() and not self.out.is_dir()):
            raise InputError(
                f"--out {self.out}: expected a directory or nothing, found a file or a link; it is left alone"
            )
        if not self.out.exists() or not any(self.out.iterdir()):
            return
        if not (self.out / MANIFEST_NAME).is_file():
            raise InputError(
                f"--out {self.out}: it holds files but no {MANIFEST_NAME}, so it is no artifact and is never "
                "replaced; choose another directory"
            )
        if not self._force:
            raise InputError(f"--out {self.out}: it already holds an artifact; --force replaces it")

    def _prepare(self) -> None:
        """Takes up the work of an interrupted build, or starts anew."""
        partial = self._sibling("partial")
        if self._resume:
            try:
                progress = json.loads((partial / _PROGRESS_NAME).read_text("utf-8"))
                if progress["key"] == self._key and self.path.is_dir():
                    self._done = list(progress["done"])
                    return
            except (OSError, ValueError, KeyError, TypeError):
                pass  # nothing to resume
        if partial.exists():
            (partial / _PROGRESS_NAME).unlink(missing_ok=True)  # first: half of a build is nothing to resume
            shutil.rmtree(partial)
        self.path.mkdir(parents=True)
        self._write_progress()

    def _write_progress(self) -> None:
        target = self._sibling("partial") / _PROGRESS_NAME
        fresh = target.with_suffix(".new")
        fresh.write_text(json.dumps({"key": self._key, "done": self._done}), "utf-8")
        os.replace(fresh, target)

    def _tidy(self) -> None:
        """What is left is the old artifact; failing to remove it must not fail a build that is published."""
        for kind in ("partial", "old"):
            shutil.rmtree(self._sibling(kind), ignore_errors=True)

    def _cannot_write(self, error: OSError) -> InputError:
        path = None if error.filename is None else Path(os.fsdecode(error.filename)).absolute()
        places = (self.out, self.path.parent, self._sibling("lock"))
        ours = path is None or self.out.is_relative_to(path) or any(map(path.is_relative_to, places))
        what = f"--out {self.out}: cannot be written" if ours else f"{path}: cannot be read or written"
        return InputError(
            f"{what}: {error.strerror or error}; what was in {self.out} before is untouched. Free space, get "
            "permission or choose another path; --resume then goes on"
        )


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two directories atomically; False where the system cannot (Linux can, see renameat2(2))."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _sync_tree(directory: Path) -> None:
    for path in [*directory.rglob("*"), directory]:
        _sync(path)


def _sync(path: Path) -> None:
    """Flushes a file or a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
