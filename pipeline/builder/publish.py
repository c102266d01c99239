"""Publishing a build: written beside the old artifact, resumable, and swapped in whole at the end.

After a crash at any point `out` is what it was before or the finished build, never a mix.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from engines.errors import InputError
from engines.manifest import MANIFEST_NAME
from engines.writing import is_partial, locked, remove_partials, sibling, sync, write_whole

_PROGRESS_NAME = "progress.json"
_KIT_OUTPUT = "trtexec/"
"""Where the scripts of an exported artifact put what they compile."""
_STORAGE_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EIO,
    errno.EFBIG,
    errno.EISDIR,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ESTALE,
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
        self._work = sibling(self.out, "partial")
        self.path, self._old = self._work / "artifact", self._work / "old"
        self._key, self._force, self._resume, self._timeout = key, force, resume, timeout
        self._locks = ExitStack()
        self._done: list[str] = []

    def __enter__(self) -> Publisher:
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as locks:
                locks.enter_context(locked(self.out, f"--out {self.out}", self._timeout, "build"))
                self._check_work()
                self._recover()
                self._check_free()
                self._prepare()
                self._locks = locks.pop_all()
        except OSError as error:
            raise self._cannot_write(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._locks.close()
        if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
            raise self._cannot_write(error) from error

    def check(self) -> None:
        """Raises InputError where `out` is taken now, as entering would; changes nothing."""
        try:
            self._check_work()
            self._check_free()
        except OSError as error:
            raise self._cannot_write(error) from None

    def done(self, step: str) -> bool:
        """Whether the build that is resumed has marked the step."""
        return step in self._done

    def mark(self, step: str) -> None:
        """Records that a step's files are complete."""
        self._done.append(step)
        self._write_progress()

    def publish(self) -> None:
        """Makes the build the content of `out`, all at once."""
        for path in [*self.path.rglob("*"), self.path]:
            sync(path)
        self._check_free()  # again: much may have been put there while engines were compiled
        # What an exchange leaves in the place of this build is the old artifact, which no resume may take for its work.
        (self._work / _PROGRESS_NAME).unlink()
        if not self.out.exists():
            os.rename(self.path, self.out)
        elif not _exchange(self.path, self.out):
            # There is a moment with nothing at `out`; after a crash in it `_recover` brings the old one back.
            os.rename(self.out, self._old)
            os.rename(self.path, self.out)
        sync(self.out.parent)
        self._tidy()

    def _tidy(self) -> None:
        """What is left is the old artifact; failing to remove it must not fail a build that is published."""
        shutil.rmtree(self._work, ignore_errors=True)

    def _check_work(self) -> None:
        """Raises InputError where the place for unfinished work holds anything else: what lies there is deleted."""
        if not self._work.is_symlink() and not self._work.exists():
            return
        ours = self._work.is_dir() and not self._work.is_symlink()
        if not ours or any(
            path.is_symlink() or not (path.is_dir() if path in (self.path, self._old) else _is_progress(path))
            for path in self._work.iterdir()
        ):
            raise InputError(
                f"--out {self.out}: expected nothing or an interrupted build at {self._work}, found something else; it "
                "is left alone: move it, or choose another directory"
            )

    def _recover(self) -> None:
        if self._old.exists() and not self.out.exists():
            os.rename(self._old, self.out)

    def _check_free(self) -> None:
        if self.out.is_symlink() or (self.out.exists() and not self.out.is_dir()):
            raise InputError(
                f"--out {self.out}: expected a directory or nothing, found a file or a link; it is left alone"
            )
        if not self.out.exists() or not any(self.out.iterdir()):
            return
        problem = _not_ours(self.out)
        if problem is not None:
            raise InputError(f"--out {self.out}: {problem}; it is never replaced: choose another directory")
        if not self._force:
            raise InputError(f"--out {self.out}: it already holds an artifact; --force replaces it")

    def _prepare(self) -> None:
        """Takes up the work of an interrupted build, or starts anew."""
        if self._resume:
            try:
                progress = json.loads((self._work / _PROGRESS_NAME).read_text("utf-8"))
                if progress["key"] == self._key and self.path.is_dir():
                    self._done = list(progress["done"])
                    remove_partials(self._work)
                    return
            except (OSError, ValueError, KeyError, TypeError):
                pass  # nothing to resume
        if self._work.exists():
            (self._work / _PROGRESS_NAME).unlink(missing_ok=True)  # first: half of a build is nothing to resume
            shutil.rmtree(self._work)
        self.path.mkdir(parents=True)
        self._write_progress()

    def _write_progress(self) -> None:
        content = json.dumps({"key": self._key, "done": self._done})
        write_whole(self._work / _PROGRESS_NAME, content.encode())

    def _cannot_write(self, error: OSError) -> InputError:
        path = None if error.filename is None else Path(os.fsdecode(error.filename)).absolute()
        paths = (self.out, self._work, sibling(self.out, "lock"))
        ours = path is None or self.out.is_relative_to(path) or any(map(path.is_relative_to, paths))
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


def _is_progress(path: Path) -> bool:
    return path.is_file() and (path.name == _PROGRESS_NAME or is_partial(path))


def _not_ours(directory: Path) -> str | None:
    """Why a directory is not to be replaced: it is no artifact of a build, or holds more than one; None if it is."""
    manifest = directory / MANIFEST_NAME
    if not manifest.is_file() or manifest.is_symlink():
        return f"it holds files but no {MANIFEST_NAME}, so it is no artifact"
    try:
        content = json.loads(manifest.read_bytes())
        files, version = content["files"], content["skimrt_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"its {MANIFEST_NAME} is none of SkimRT's, so it is no artifact"
    if not isinstance(files, dict) or not isinstance(version, str):
        return f"its {MANIFEST_NAME} is none of SkimRT's, so it is no artifact"
    known = {MANIFEST_NAME, *files}
    found = (path for path in sorted(directory.rglob("*")) if path.is_symlink() or not path.is_dir())
    names = [path.relative_to(directory).as_posix() for path in found if not is_partial(path)]
    strange = [name for name in names if name not in known and not name.startswith(_KIT_OUTPUT)]
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        return f"beside the artifact it holds {strange[0]}{more}, which no build has written"
    return None
