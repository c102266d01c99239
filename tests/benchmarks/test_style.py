"""Every benchmark is called alike, says what it measures, and is in the list."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from benchmarks import records

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = {
    path.relative_to(FOLDER.parent).with_suffix("").as_posix().replace("/", "."): path.read_text("utf-8")
    for path in sorted(FOLDER.rglob("*.py"))
    if '__name__ == "__main__"' in path.read_text("utf-8")
}
BEFORE_UNPACKING = ("benchmarks.gpu.call", "benchmarks.gpu.unpack", "benchmarks.gpu.probe")
"""Run with the standard library alone, without the project's `main_of`."""


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_has_a_parser_and_run_and_says_how_it_is_called(name: str) -> None:
    module, text = importlib.import_module(name), SCRIPTS[name]
    parser = module.parser()
    assert parser.prog.removeprefix("python3").removeprefix("python") == f" -m {name}"
    assert f"-m {name}" in (module.__doc__ or "") and parser.description
    assert all(action.help for action in parser._actions)
    ends = "sys.exit(run(parser().parse_args()))" if name in BEFORE_UNPACKING else "main_of(parser, run)"
    assert text.endswith(f'if __name__ == "__main__":\n    {ends}\n')
    assert module.run.__doc__ and list(module.run.__annotations__) == ["args", "return"]


def test_the_list_is_of_all_scripts() -> None:
    listed = set(re.findall(r"`(\w+)(?: --\w+ \w+)?`", (FOLDER / "README.md").read_text("utf-8")))
    ours = {name.rpartition(".")[2] for name in SCRIPTS} - {"pack", "unpack"}
    assert ours <= listed


@pytest.mark.parametrize("record", sorted((FOLDER / "results").glob("*.json")), ids=lambda path: path.stem)
def test_a_record_names_no_path_of_the_machine_it_was_written_on(record: Path) -> None:
    absolute = re.findall(r"(?<![\w.:/*])/(?:[\w.+-]+/)+[\w.+-]*", record.read_text("utf-8"))
    assert not absolute


def test_a_command_is_told_as_typed_in_the_root_of_the_project(tmp_path: Path) -> None:
    command = f"python -m pipeline.train --init {records.ROOT}/demo/checkpoints/dense --out {tmp_path}/ltp --data 'a b'"
    assert records.portable(command) == (
        "python -m pipeline.train --init demo/checkpoints/dense --out ltp --data 'a b'"
    )
