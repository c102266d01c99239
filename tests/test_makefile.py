"""make without what the native part needs: it says so and goes on."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MINIMUM = tuple(
    map(int, re.findall(r"minimum_required\(VERSION (\d+)\.(\d+)", (ROOT / "CMakeLists.txt").read_text())[0])
)
TOOLS = ("sh", "true", "date", "dirname", "sed", "sort", "head", "nproc", "tail")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A PATH with the usual tools, a CMake of the least version and a compiler that takes everything."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(str(shutil.which(name)))
    tool(folder, "cmake", cmake_of(*MINIMUM))
    tool(folder, "ctest", "echo ctest ran")
    tool(folder, "c++", "")
    return folder


def tool(folder: Path, name: str, script: str) -> None:
    """A command of the machine."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def cmake_of(major: int, minor: int) -> str:
    """A CMake that configures and builds nothing."""
    return f"if [ $1 = --version ]; then echo cmake version {major}.{minor}.1; else echo configured >&2; fi"


def run_make(machine: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """make with tests that pass; without arguments `make test` in an environment that is set up."""
    variables = [f"{name}={environment.pop(name)}" for name in ("VENV",) if name in environment]
    command = [str(shutil.which("make")), *(arguments or ("-o", ".venv/.ready", "test"))]
    command += ["PY=true", f"BUILD={machine.parent}/build", *variables]
    environment = {"PATH": str(machine), **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def make_test(machine: Path, **environment: str) -> str:
    """What `make test` prints."""
    done = run_make(machine, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_skipped(printed: str, reason: str) -> None:
    """Neither built nor tested, and both are said."""
    assert f"SKIPPED: the plugin is not built: {reason}\n" in printed
    assert f"SKIPPED: ctest: nothing was built: {reason}\n" in printed
    assert "ctest ran" not in printed


@pytest.mark.parametrize("version", [MINIMUM, (MINIMUM[0], 100), (MINIMUM[0] + 1, 0)])
def test_with_all_that_it_needs_the_plugin_is_built_and_tested(machine: Path, version: tuple[int, int]) -> None:
    tool(machine, "cmake", cmake_of(*version))
    printed = make_test(machine)
    assert re.search(r"^setup: building the plugin \(log: .*/build.log\) \.\.\. \d+ s$", printed, re.MULTILINE)
    assert "ctest ran" in printed
    assert "SKIPPED" not in printed


def test_a_step_that_fails_ends_setup_with_the_end_of_its_log(machine: Path) -> None:
    tool(machine, "cmake", f"{cmake_of(*MINIMUM)}; [ $1 = --version ] || {{ echo no such generator; exit 1; }}")
    done = run_make(machine)
    assert done.returncode == 2
    assert "... failed\n" in done.stdout and "no such generator" in done.stdout
    assert "ctest ran" not in done.stdout


def test_every_step_of_setup_says_what_it_does_and_how_long_it_took(machine: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    tool(machine, "python3", f"/bin/mkdir -p {venv}")
    tool(machine, "touch", "")
    done = run_make(machine, "-B", "setup", VENV=str(venv))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("setup: ")]
    assert len(lines) == 5 and all(re.search(r" \.\.\. \d+ s$", line) for line in lines), done.stdout


def test_without_cmake(machine: Path) -> None:
    (machine / "cmake").unlink()
    (machine / "ctest").unlink()
    (machine.parent / "build").mkdir()  # of a time when there was one
    assert_skipped(make_test(machine), "cmake is not installed")


def test_a_cmake_that_is_too_old(machine: Path) -> None:
    tool(machine, "cmake", cmake_of(MINIMUM[0], 9))
    wanted = ".".join(map(str, MINIMUM))
    assert_skipped(make_test(machine), f"cmake is {MINIMUM[0]}.9.1, {wanted} or newer is needed")


def test_without_a_compiler(machine: Path) -> None:
    (machine / "c++").unlink()
    assert_skipped(make_test(machine), "no C++17 compiler is installed")


def test_a_compiler_that_is_too_old(machine: Path) -> None:
    tool(machine, "c++", "echo unrecognized option -std=c++17 >&2; exit 1")
    assert_skipped(make_test(machine), "no C++17 compiler is installed")


def test_the_compiler_is_the_one_that_is_named(machine: Path) -> None:
    assert_skipped(make_test(machine, CXX="clang++-99"), "CXX=clang++-99 is no C++17 compiler")
    tool(machine, "wrapped", "exec $*")
    (machine / "c++").rename(machine / "g++-12")
    assert "ctest ran" in make_test(machine, CXX="wrapped g++-12")


GPU_STEPS = (
    "ctest --test-dir",
    "py -m pytest -m gpu and not slow",
    "SKIP: compute-sanitizer",
    "py -m benchmarks.gpu_run",
)


def make_test_gpu(machine: Path, gpu: bool, packages: bool, failing: str = "") -> subprocess.CompletedProcess[str]:
    """`make test-gpu` with a Python that finds a GPU and packages or not, and a step that fails."""
    answers = {"find_gpu": not gpu, "import cuda": not packages, "pip install": True, failing or "nothing": True}
    cases = "\n".join(f"*'{word}'*) exit 3;;" for word, fails in answers.items() if fails)
    tool(machine, "py", f'echo py $*\ncase "$*" in\n{cases}\nesac')
    tool(machine, "ctest", "echo ctest $*; " + ("exit 8" if failing == "ctest" else ""))
    command = [str(shutil.which("make")), "-o", ".venv/.ready", "test-gpu", "PY=py", f"BUILD={machine.parent}/build"]
    environment = {"PATH": str(machine)}
    return subprocess.run(
        [*command, "GPU_RUN=--minutes 5"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("failing", ["", "ctest", "pytest", "gpu_run --minutes 5"])
@pytest.mark.parametrize("packages", [True, False])
def test_on_a_gpu_every_step_runs_whatever_fails(machine: Path, packages: bool, failing: str) -> None:
    """Also offline, where pip cannot install what is missing: the kernels need no engine library."""
    done = make_test_gpu(machine, gpu=True, packages=packages, failing=failing)
    places = [done.stdout.find(step) for step in GPU_STEPS]
    assert -1 not in places and places == sorted(places), done.stdout + done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith("FAILED:" if failing else "py -m benchmarks.gpu_run --min")
    assert (done.returncode != 0) == bool(failing)
    assert ("SKIPPED: pip cannot install the extra gpu" in done.stdout) == ("pip install" in done.stdout)
    assert ("pip install" in done.stdout) == (not packages)


def test_without_a_gpu_nothing_is_tried(machine: Path) -> None:
    done = make_test_gpu(machine, gpu=False, packages=True, failing="--check")
    assert done.returncode != 0
    assert done.stdout.rstrip().endswith("py -m benchmarks.gpu_run --check")
