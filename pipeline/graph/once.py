"""Exports every stage of a model once: tracing one takes seconds, and what is timed is mostly what is built."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from engines.backends.base import program_file
from pipeline.graph.export import export_stage
from pipeline.graph.precision import Precision
from pipeline.graph.program import write_program
from pipeline.graph.stages import HeadStage, Stage
from pipeline.model.config import CheckpointConfig


class ExportOnce:
    """Exports every stage of one model once per precision, and copies its files from then on.

    programs: also write the program of PyTorch beside every graph. operator: with TokenCompact as an operator in it.

    The files are kept on disk, because a large model's graphs would take its memory several times.
    """

    def __init__(self, programs: bool = False, operator: bool = False) -> None:
        self._programs, self._operator = programs, operator
        self._kept = tempfile.TemporaryDirectory(prefix="skimrt-graphs-")
        self._graphs: dict[tuple[object, Precision], Path] = {}

    def __call__(
        self, stage: Stage | HeadStage, config: CheckpointConfig, path: Path, precision: Precision = "fp32", /
    ) -> None:
        key = stage.spec.steps if isinstance(stage, Stage) else HeadStage, precision
        kept = self._graphs.get(key)
        if kept is None:
            export_stage(stage, config, path, precision)
            if self._programs:
                write_program(stage, config, path, precision, self._operator)
            kept = Path(self._kept.name) / f"{len(self._graphs)}.onnx"
            _copy(path, kept, self._programs)
            self._graphs[key] = kept
        else:
            _copy(kept, path, self._programs)


def _copy(graph: Path, to: Path, programs: bool) -> None:
    shutil.copyfile(graph, to)
    if programs:
        shutil.copyfile(program_file(graph), program_file(to))
