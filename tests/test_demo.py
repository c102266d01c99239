"""python -m pipeline.demo: what it cannot use is refused before anything is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import demo
from tests.gates.builds import run_verb


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reviews", 0], "--reviews: expected at least 1, found 0"),
        (
            ["--timed", 0, "--rounds", -1],
            "--timed: expected at least 1, found 0; --rounds: expected at least 1, found -1",
        ),
        (["--threads", 0], "--threads: expected at least 1, found 0"),
        (["--max-drop", "nan"], "--max-drop: expected a finite number, found nan"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list, message: str
) -> None:
    monkeypatch.setattr(demo, "build", lambda *_: pytest.fail("it built something"))
    assert run_verb(demo, *arguments, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "expected a results.json of pipeline.demo, found JSONDecodeError("),
        ("[]", "expected a results.json of pipeline.demo, found TypeError("),
        ('{"methods": {}}', "expected a results.json of pipeline.demo, found KeyError('dense')"),
        ('{"methods": []}', "expected a results.json of pipeline.demo, found TypeError("),
    ],
)
def test_a_table_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content, "utf-8")
    assert run_verb(demo, "--table", path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --table {path}: {message}")


def test_the_table_of_the_committed_results_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parents[1] / "benchmarks" / "results" / "demo-cpu.json"
    assert run_verb(demo, "--table", path) == 0
    assert capsys.readouterr().out == demo.markdown_table(json.loads(path.read_text("utf-8"))) + "\n"
