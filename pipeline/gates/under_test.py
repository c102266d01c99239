"""The engines that gates ask: where they lie, what loads them, and what this machine cannot run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from engines.artifact import Artifact
from engines.backends import Backend, Engine, records_for
from engines.errors import GateError, InputError
from engines.loading import keeping, on_all_cores
from engines.manifest import EngineRecord, Gate, Manifest
from engines.plan import Unit
from engines.runner import Runner


@dataclass(frozen=True)
class EnginesUnderTest:
    """The engines of one target in the folder of an artifact, which need not be published.

    threads:    CPU threads of a call; None leaves the number to the library.
    cannot_run: why this machine cannot run them; None: it can.
    """

    folder: Path
    manifest: Manifest
    backend: Backend
    threads: int | None = None
    cannot_run: str | None = None

    @cached_property
    def _artifact(self) -> Artifact:
        return Artifact(self.folder, self.manifest)

    @cached_property
    def records(self) -> list[EngineRecord]:
        """The target's engines that are for this machine, or all of them where it cannot run any."""
        if self.cannot_run is not None:
            return [record for record in self.manifest.engines if record.target == self.backend.target]
        return records_for(self.manifest, self.backend)

    def loaded(self) -> EnginesUnderTest:
        """The same engines, loaded on all cores and once: gate after gate runs the same ones.

        On a device, whose memory is scarce, there is one at a time. One that cannot be loaded is reported by the gate
        that asks for it.
        """
        if self.cannot_run is not None:
            return self
        backend = keeping(self.backend, self._artifact)

        def load(record: EngineRecord) -> None:
            with suppress(InputError):
                backend.load(self.folder / record.file, self.threads, record.binding)

        if backend.device() is None:
            on_all_cores(load, self.records, self.threads)
        return EnginesUnderTest(self.folder, self.manifest, backend, self.threads)

    def load(self, record: EngineRecord) -> Engine:
        """An engine; one that cannot be loaded is a GateError."""
        try:
            content = self._artifact.content
            return self.backend.load(self.folder / record.file, self.threads, record.binding, content)
        except InputError as error:
            raise GateError(str(error)) from None

    def graph(self, unit: Unit) -> Path:
        """The stage graph of a unit, before it is quantised."""
        return self.folder / self.manifest.plan.graphs[unit]

    def runner(self) -> Runner:
        """A runner over all of them."""
        return Runner(self.folder, self.backend, threads=self.threads, verify=False)

    def skipped(self, *names: str) -> list[Gate]:
        """The gates that this machine cannot ask."""
        assert self.cannot_run is not None
        return [Gate(name=name, status="SKIPPED", reason=self.cannot_run) for name in names]
