"""The list of verbs, and the two ways to call them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import VERBS

ROOT = Path(__file__).resolve().parents[1]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m` with arguments."""
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize(("module", "joined"), [("pipeline", "."), ("skimrt", " ")])
def test_every_verb_is_listed_with_its_purpose(module: str, joined: str) -> None:
    done = call(module)
    assert done.returncode == 0 and f"{module}{joined}VERB --help" in done.stdout
    listed = [line.split(maxsplit=1) for line in done.stdout.splitlines()[2:]]
    assert [verb for verb, _ in listed] == list(VERBS)
    assert all(purpose.endswith(".") and len(purpose) > 20 for _, purpose in listed)


def test_every_module_that_is_a_verb_is_listed() -> None:
    found = {
        path.parent.name if path.stem == "__main__" else path.stem
        for path in (ROOT / "pipeline").rglob("*.py")
        if "main_of(parser, run)" in path.read_text("utf-8")
    }
    assert found == set(VERBS)


def test_a_verb_is_called_by_either_name() -> None:
    for arguments, name in (
        (("skimrt", "inspect"), "skimrt inspect"),
        (("pipeline.inspect",), "python -m pipeline.inspect"),
    ):
        done = call(*arguments, "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"usage: {name} ")
        assert call(*arguments, "nowhere").returncode == 2


def test_an_unknown_verb_is_refused_with_a_guess() -> None:
    done = call("skimrt", "biuld")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: verb 'biuld': expected one of {', '.join(VERBS)}; did you mean 'build'?\n"
