"""Takes over files from the artifact that a build replaces or extends, if they are unchanged."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from engines.artifact import Artifact
from engines.backends.tensorrt import TIMING_CACHE
from engines.buckets import Bucket
from engines.files import sha256
from engines.manifest import EngineRecord
from engines.writing import write_whole

_log = logging.getLogger(__name__)
_PLUGINS = "plugins/"


class Previous:
    """The previous artifact, as seen by a build in `root`.

    artifact: None if there is none. timings: a file of kernel timings that builds on this machine share; None: each
              artifact has its own.
    """

    def __init__(self, artifact: Artifact | None, root: Path, timings: Path | None = None) -> None:
        self._artifact, self._root, self._timings = artifact, root, timings

    def take(self, key: str, file: str, profiles: Sequence[Bucket]) -> bool:
        """Brings the engine of that key and name, with its report; False where there is none, or it is damaged or was
        built without some of these profiles."""
        records = [] if self._artifact is None else self._artifact.manifest.engines
        wanted = key, file, set(profiles)
        return any(self._bring(r.files) for r in records if (r.key, r.file, set(r.profiles)) == wanted)

    def take_timings(self, folder: str) -> None:
        """Copies the timings of a folder of engines, unless the build has its own."""
        name = f"{folder}/{TIMING_CACHE}"
        if (self._root / name).exists():
            return
        if self._timings is not None and self._timings.is_file():
            _copy(self._timings, self._root / name)
        else:
            self._bring([name])  # it is read and written while engines are compiled

    def share_timings(self, folder: str) -> None:
        """Writes the timings of a folder of engines into the shared file. A failure is only logged."""
        timings = self._root / folder / TIMING_CACHE
        if self._timings is not None and timings.is_file():
            try:
                write_whole(self._timings, timings.read_bytes())
            except OSError as error:
                _log.warning("--timing-cache %s: cannot be written: %s", self._timings, error.strerror)

    def keep(self, records: Sequence[EngineRecord]) -> list[EngineRecord]:
        """Brings engines that another machine has added, and what belongs to them; returns those that are whole."""
        kept = [record for record in records if self._bring(record.files)]
        for folder in sorted({str(Path(record.file).parent) for record in kept}):
            self._bring([f"{folder}/{TIMING_CACHE}"])
        if self._artifact is not None and any(r.binding is not None and r.binding.plugin is not None for r in kept):
            self._bring([name for name in self._artifact.manifest.files if name.startswith(_PLUGINS)])
        return kept

    def bring(self, name: str) -> bool:
        """Copies a file. Returns False if it is missing or damaged."""
        return self._bring([name])

    def _bring(self, names: Sequence[str]) -> bool:
        if self._artifact is None:
            return False
        digests, folder = self._artifact.manifest.files, self._artifact.path
        if any(n not in digests or not (folder / n).is_file() or sha256(folder / n) != digests[n] for n in names):
            return False
        for name in names:
            _copy(folder / name, self._root / name)
        return True


def _copy(source: Path, target: Path) -> None:
    """Copies a file. A second name for it would cost no space, but a file of two names is refused when it is read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
