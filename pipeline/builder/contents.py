"""Writes everything of an artifact except its engines: manifest, tokenizer, retention, plugin, kit for GPU hosts."""

from __future__ import annotations

import shutil
from pathlib import Path

from calib.data import examples_digest
from calib.retention import FILE as RETENTION_FILE
from calib.retention import RetentionStatistics
from engines.errors import BuildError
from engines.files import sha256
from engines.manifest import TOKENIZER_NAME, EngineRecord
from engines.manifest_file import write_manifest
from pipeline.builder.manifest import manifest_of, plan_of
from pipeline.builder.target import BuildTarget
from pipeline.builder.work import Engines, Exported, Planned, Work
from pipeline.graph.stages import decision_layers
from pipeline.kit.scripts import write_gpu_kit
from pipeline.model.checkpoint import tokenizer_path
from plugins.library import RTX_ALIAS_NAME, copy_plugins, library_path


def write_contents(work: Work, planned: Planned, exported: Exported, engines: Engines) -> None:
    """Writes everything of an artifact except its engines, and deletes files that no engine uses."""
    root, config, target = work.root, work.config, engines.target
    _drop_leftovers(root, engines.records)
    (root / TOKENIZER_NAME).parent.mkdir(exist_ok=True)
    shutil.copyfile(tokenizer_path(config.checkpoint), root / TOKENIZER_NAME)
    manifest = manifest_of(work.start, plan_of(planned, exported, engines.compiled.failed), engines.records, root)
    write_manifest(root, manifest)
    if decision_layers(planned.expected.model):
        _write_retention(work, planned)
    if target.options.plugin:
        _copy_plugins(root / "plugins", target)
    if config.export_only or target.backend.needs_device_to_build:
        write_gpu_kit(root, planned.expected, manifest, target.options, exported.int8)


def _write_retention(work: Work, planned: Planned) -> None:
    subject = work.start.subject
    RetentionStatistics(
        data=work.config.data,
        data_sha256=examples_digest(subject.examples[: work.config.samples]),
        checkpoint_sha256=subject.digest,
        rows=planned.expected.reference.rows.tolist(),
    ).write(work.root / RETENTION_FILE)


def _drop_leftovers(root: Path, records: list[EngineRecord]) -> None:
    """Deletes engines left by an interrupted build with other options or by a killed builder."""
    used = {root / Path(record.file).parent for record in records}
    for folder in sorted({path.parent for path in (root / "engines").rglob("*") if path.is_file()}):
        for path in folder.glob("*" if folder not in used else "*.partial"):
            path.unlink()
    if all(record.binding is None or record.binding.plugin is None for record in records):
        shutil.rmtree(root / "plugins", ignore_errors=True)


def _copy_plugins(folder: Path, target: BuildTarget) -> None:
    """Copies the plugin libraries. Raises BuildError if they changed since the engines were bound to them."""
    copy_plugins(folder)
    if target.binding is None:
        return
    bound = {library_path(): target.binding.plugin}
    if target.binding.companion is not None:
        bound[library_path().with_name(RTX_ALIAS_NAME)] = target.binding.companion
    for path, digest in bound.items():
        copied = folder / path.name
        if not copied.is_file() or sha256(copied) != digest:
            raise BuildError(
                f"plugin library {path}: expected SHA-256 {digest}, found another one: it was changed while the "
                "engines were built; build again"
            )
