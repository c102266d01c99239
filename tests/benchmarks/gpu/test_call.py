"""What a call does on the GPU machine: its steps name what there is, and one that fails or hangs stops no other."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import call
from benchmarks.gpu.call import STEPS, Command, Session, build_commands

ROOT = Path(__file__).parents[3]
COMMANDS = {command.name: command for step in STEPS.values() for command in step.commands}


def python(name: str, code: str, seconds: float = 60, **more) -> Command:
    """A command that runs some Python."""
    return Command(name, seconds, 5, ("{python}", "-c", code), **more)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_steps_command_is_one_that_the_project_has(name: str) -> None:
    """Modules parse the arguments that they are given; files, targets and kernels that are named exist."""
    arguments = [part.format(python=sys.executable, out="/out") for part in COMMANDS[name].arguments]
    if "-m" in arguments:
        module, *rest = arguments[arguments.index("-m") + 1 :]
        if module.startswith("benchmarks."):
            importlib.import_module(module).parser().parse_args(rest)
        else:
            assert module == "pytest"
    named = [part for part in arguments if part.startswith(("tests/", "plugins/"))]
    assert all((ROOT / path).is_file() for path in named)
    for part in arguments:
        kernels = part.removeprefix("regex:").split("|") if part.startswith("regex:") else []
        sources = "".join(path.read_text("utf-8") for path in (ROOT / "plugins").glob("*/kernel.cu"))
        assert all(re.search(rf"\b{kernel}\(", sources) for kernel in kernels)


def test_the_targets_that_are_built_are_cmakes() -> None:
    text = "".join(path.read_text("utf-8") for path in (ROOT / "plugins").rglob("*.cmake"))
    text += "".join(path.read_text("utf-8") for path in (ROOT / "plugins").rglob("CMakeLists.txt"))
    (build,) = (command for command in build_commands() if command.name == "build")
    for target in build.arguments[build.arguments.index("--target") + 1 :]:
        operator = target.removesuffix("_device")
        assert re.search(rf"\b{target}\b", text) or ("${operator}_device" in text and operator in text), target


def test_what_fails_or_hangs_stops_only_what_is_behind_it(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "_SHORTEST", 0.5)
    session = Session(tmp_path, 600, {"MARK": "here"})
    commands = [
        python("fails", "print('so'); raise SystemExit(3)"),
        python("hangs", "import time; print('up', flush=True); time.sleep(60)", seconds=1),
        python("behind", "print('never')", behind="fails"),
        python("passes", "import os; print(os.environ['MARK'])"),
        Command("missing", 60, 5, ("no-such-program",)),
    ]
    assert [session.run(command) for command in commands] == [False, False, False, True, False]
    ended = [re.sub(r", \d+ s$", "", line) for line in session.summary]
    assert ended == [
        "fails: exit 3",
        "hangs: stopped after 1 s",
        "behind: NOT RUN, fails did not pass",
        "passes: exit 0",
        "missing: not started",
    ]
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert "so\n" in log and "up\n" in log and "here\n" in log and "never\n" not in log
    assert "here\n" in capsys.readouterr().out


def test_what_a_stopped_program_started_is_stopped_too(tmp_path: Path) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{_WRITES}', r'{tmp_path}/late'])"
    began = time.monotonic()
    assert call.run_limited([sys.executable, "-c", code], 1, {})[0] == "stopped after 1 s"
    time.sleep(max(0, began + 3 - time.monotonic()))
    assert not (tmp_path / "late").exists()


_WRITES = "import sys, time; time.sleep(2); open(sys.argv[1], \\'w\\')"


def test_nothing_starts_when_the_call_is_nearly_over(tmp_path: Path) -> None:
    session = Session(tmp_path, call._KEPT_FREE + 4, {})
    assert not session.run(python("late", "print(1)"))
    assert session.summary == ["late: NOT RUN, the call's time is over"]


def test_a_call_unpacks_runs_and_sums_up_with_the_standard_library_alone(tmp_path: Path) -> None:
    """Before it has unpacked, nothing else is there."""
    command = [sys.executable, "-I", "-S", "-c", _CALL.format(root=ROOT, there=tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing has arrived" in done.stdout and "== summary" in done.stdout
    unknown = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.call", "kernel"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert unknown.returncode == 2 and "unknown steps kernel: expected some of kernels, ncu" in unknown.stderr


_CALL = """
import sys
sys.path.insert(0, "{root}")
from benchmarks.gpu import call
sys.exit(call.run(call.parser().parse_args(["--root", "{there}"])))
"""
