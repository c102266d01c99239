"""A stage is exported once, and copied from then on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from engines.backends.base import program_file
from pipeline.graph import once
from pipeline.graph.once import ExportOnce
from pipeline.graph.stages import Stage, cut_stages
from tests.graph.small import small_model


@pytest.mark.parametrize("programs", [False, True])
def test_a_stage_is_traced_once_in_each_precision(
    programs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = Counter[str]()

    def export(stage: Stage, config: object, path: Path, precision: str) -> None:
        traced[precision] += 1
        path.write_text(f"{stage.spec.name} {precision}")

    def program(stage: Stage, config: object, path: Path, precision: str, operator: bool) -> None:
        program_file(path).write_text(f"program of {path.read_text()}")

    monkeypatch.setattr(once, "export_stage", export)
    monkeypatch.setattr(once, "write_program", program)
    model, exporting = small_model("ltp"), ExportOnce(programs)
    (spec,) = cut_stages(model, [])
    for number in range(3):
        for precision in ("fp32", "bf16"):
            path = tmp_path / f"{number}-{precision}.onnx"
            exporting(Stage(model, spec), model.config, path, precision)
            assert path.read_text() == f"{spec.name} {precision}"
            assert program_file(path).is_file() == programs
            path.write_text("quantised in place")  # what is done with a copy changes no other
    assert traced == {"fp32": 1, "bf16": 1}
