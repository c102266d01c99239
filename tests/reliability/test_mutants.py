"""Tests of tests/FAULTS.md fail without the mechanism that they cover: shown in copies of the sources."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engines.writing import write_whole
from tests.reliability.mutants import MUTANTS, Mutant
from tests.reliability.trials import RESULTS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("calib", "demo", "engines", "pipeline", "plugins", "skimrt", "tests")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.row}-{mutant.lost}")
def test_what_is_taken_out_is_there_once(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text("utf-8").count(mutant.old) == 1
    row = next(
        line
        for line in (ROOT / "tests/FAULTS.md").read_text("utf-8").splitlines()
        if line.startswith(f"| {mutant.row} |")
    )
    assert f"`{mutant.test}`" in row


def passes(copy: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs tests of a copy of the repository, whose packages come first."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_without_its_mechanism_a_test_fails(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    whole = passes(copy, sorted({mutant.test for mutant in MUTANTS}))
    assert whole.returncode == 0, whole.stdout
    survived = []
    for mutant in MUTANTS:
        file = copy / mutant.file
        source = file.read_text("utf-8")
        file.write_text(source.replace(mutant.old, mutant.new), "utf-8")
        if (done := passes(copy, [mutant.test])).returncode != 1:  # 1: tests ran, and one failed
            survived.append(f"{mutant.lost}: exit code {done.returncode}\n{done.stdout[-1500:]}")
        file.write_text(source, "utf-8")
    assert not survived, "\n".join(survived)
    table = [{"row": m.row, "lost": m.lost, "test": m.test} for m in MUTANTS]
    write_whole(RESULTS.with_name("mutants.json"), (json.dumps(table, indent=1) + "\n").encode())
