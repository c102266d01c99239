"""Runs steps on the GPU machine: unpacks what has arrived, builds the plugins, then measures. Standard library only.

python3 -m benchmarks.gpu.call [STEP ...]

Results are JSON files in $OUT (default: the folder `out` of --root), beside one log; the last lines sum up. A command
that fails stops no other, except those that are `behind` it. Without a step it only unpacks.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.unpack import DEFAULT, FOLDER, unpack

_KEPT_FREE = 20
"""Seconds of a call that are left for its end."""
_SHORTEST = 5
"""Seconds below which nothing is started any more."""
_MODULE = ("{python}", "-m")
_PYTEST = (*_MODULE, "pytest", "-o", "addopts=", "-q", "-rsfE", "-p", "no:cacheprovider")
_E2E = (*_MODULE, "benchmarks.gpu.e2e")
_TORCH = (
    *("--targets", "torch", "--methods", "ltp", "--precisions", "fp16", "--buckets", "32x128,32x256"),
    *("--texts", "256", "--rounds", "3", "--minutes", "8"),
)
_COMPILED = ("--mode", "compile", "--batches", "32", "--lengths", "64,128,256", "--texts", "256", "--samples", "16")
_METRICS = ",".join(
    (
        "gpu__time_duration.sum",
        "dram__bytes_read.sum",
        "dram__bytes_write.sum",
        "dram__throughput.avg.pct_of_peak_sustained_elapsed",
        "sm__warps_active.avg.pct_of_peak_sustained_active",
        "launch__registers_per_thread",
        "launch__grid_size",
    )
)
_NCU = (
    *("ncu", "--clock-control", "none", "--csv", "--page", "raw", "--metrics", _METRICS),
    *("-k", "regex:tokenCompactKernel|regroupKernel", "--log-file", "{out}/ncu.csv"),
)
PLUGINS = Path("build/lib/libskimrt_plugins.so")
TARGETS = (
    *("skimrt_plugins", "skimrt_host", "tensorrt_rtx_alias"),
    *("token_compact_device", "regroup_device", "token_compact_benchmark"),
)
"""CMake's targets that the steps use."""


@dataclass(frozen=True)
class Command:
    """One program: its name in the summary, seconds at most, lines of its output to show, and its arguments.

    {python} and {out} in an argument stand for the interpreter and the folder of results.
    behind: the command that must have passed before this one is worth running.
    """

    name: str
    seconds: float
    shown: int
    arguments: tuple[str, ...]
    behind: str = ""


@dataclass(frozen=True)
class Step:
    """What a call can be asked for: the archives that it needs, and its commands."""

    needs: tuple[str, ...]
    commands: tuple[Command, ...]


STEPS = {
    "kernels": Step(
        ("base",),
        (
            Command("probe", 60, 60, (*_MODULE, "benchmarks.gpu.probe", "--out", "{out}/probe.json")),
            Command("device-tests", 40, 15, ("ctest", "--test-dir", "build", "-L", "gpu", "--output-on-failure")),
            Command(
                "bandwidth", 40, 15, (*_MODULE, "benchmarks.token_compact_gpu", "--json", "{out}/token-compact.json")
            ),
            Command("regroup", 40, 15, (*_MODULE, "benchmarks.regroup_gpu", "--json", "{out}/regroup.json")),
            Command(
                "pytest",
                120,
                30,
                (*_PYTEST, "-m", "gpu and not slow", "tests/plugins/test_gpu.py", "tests/engines/test_device.py"),
            ),
            Command("sanitizer", 150, 30, ("sh", "plugins/testing/compute_sanitizer.sh", "build")),
        ),
    ),
    "ncu": Step(
        ("base",),
        (
            Command("kernel-calls", 90, 8, (*_MODULE, "benchmarks.gpu.ncu_target")),
            Command("ncu", 200, 4, (*_NCU, *_MODULE, "benchmarks.gpu.ncu_target"), behind="kernel-calls"),
        ),
    ),
    "stages": Step(
        ("base",),
        (Command("stages", 220, 45, (*_MODULE, "benchmarks.gpu.stage_times", "--out", "{out}/stage-times.json")),),
    ),
    "e2e": Step(
        ("base", "model"),
        (Command("e2e", 580, 40, (*_E2E, "--out", "{out}/e2e-eager.json")),),
    ),
    "torch": Step(
        ("base", "model"),
        (Command("torch", 580, 40, (*_MODULE, "benchmarks.gpu_run", *_TORCH, "--out", "{out}/gpu-torch.json")),),
    ),
    "packed": Step(
        ("base", "model"),
        (Command("packed", 200, 30, (*_MODULE, "benchmarks.gpu.packed", "--out", "{out}/packed.json")),),
    ),
    "rtx": Step(
        ("base", "rtx"),
        (Command("rtx", 240, 40, (*_MODULE, "benchmarks.gpu.rtx", "--out", "{out}/rtx.json")),),
    ),
    "e2e-compile": Step(
        ("base", "model"),
        (
            Command(
                "e2e-compile",
                580,
                40,
                (*_E2E, *_COMPILED, "--out", "{out}/e2e-compile.json"),
            ),
        ),
    ),
}
"""By value: what comes first is worth the most."""


@dataclass
class Session:
    """The commands of one call, which must all end before the machine ends the call.

    out:     folder of the results and of log.txt. seconds: of the call, from now on.
    summary: a line for every command that was asked for.
    """

    out: Path
    seconds: float
    environment: Mapping[str, str]
    summary: list[str] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)

    def run(self, command: Command) -> bool:
        """Runs a command, for no longer than it and the call may take; shows its last lines. Whether it passed."""
        started = time.monotonic()
        limit = min(command.seconds, self.seconds - _KEPT_FREE - (started - self.began))
        reason = "the call's time is over" if limit < _SHORTEST else ""
        if command.behind and command.behind not in self.passed:
            reason = f"{command.behind} did not pass"
        if reason:
            self._note(f"{command.name}: NOT RUN, {reason}")
            return False
        print(f"== {command.name}", flush=True)
        arguments = [part.format(python=sys.executable, out=self.out) for part in command.arguments]
        code, output = run_limited(arguments, limit, {**os.environ, **self.environment})
        with (self.out / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"== {command.name}: {' '.join(arguments)}\n{output}\n")
        print("\n".join(output.splitlines()[-command.shown :]))
        self._note(f"{command.name}: {code}, {time.monotonic() - started:.0f} s")
        if code == "exit 0":
            self.passed.add(command.name)
        return code == "exit 0"

    def _note(self, line: str) -> None:
        self.summary.append(line)
        print(line, flush=True)


def run_limited(arguments: Sequence[str], seconds: float, environment: Mapping[str, str]) -> tuple[str, str]:
    """How a program ended, such as "exit 0" or "stopped", and what it printed. It and its children are stopped."""
    try:
        process = subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=dict(environment),
            start_new_session=True,
        )
    except OSError as error:
        return "not started", str(error)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return f"stopped after {seconds:.0f} s", output
    return f"exit {process.returncode}", output


def build_commands() -> tuple[Command, ...]:
    """Configures and builds the plugins with the compiler that is there."""
    configure = ("cmake", "-S", ".", "-B", "build", "-DPython3_EXECUTABLE={python}")
    build = ("cmake", "--build", "build", "--parallel", str(os.cpu_count() or 1), "--target", *TARGETS)
    return Command("configure", 60, 6, configure), Command("build", 150, 6, build, behind="configure")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python3 -m benchmarks.gpu.call", description=(__doc__ or "").splitlines()[0])
    p.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)}")
    p.add_argument("--root", type=Path, default=DEFAULT, help=f"where all is kept (default {DEFAULT})")
    p.add_argument("--seconds", type=float, default=600, help="of the whole call (default 600)")
    return p


def run(args: argparse.Namespace) -> int:
    """Unpacks, builds if it was not built on this machine, runs the steps; 0 if every command passed, else 1."""
    unknown = [name for name in args.steps if name not in STEPS]
    if unknown:
        print(f"error: unknown steps {', '.join(unknown)}: expected some of {', '.join(STEPS)}", file=sys.stderr)
        return 2
    out = Path(os.environ.get("OUT") or args.root / "out").resolve()
    out.mkdir(parents=True, exist_ok=True)
    site = args.root.resolve() / "site"
    environment = {
        "PYTHONPATH": os.pathsep.join([str(site), str(Path.cwd())]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TENSORRT_ROOT": str(site / "kernel_lens" / "include" / "tensorrt"),
    }
    session = Session(out, args.seconds, environment)
    print("\n".join(unpack(Path(FOLDER), args.root)), flush=True)
    commands = build_commands() if args.steps and not PLUGINS.is_file() else ()
    for command in (*commands, *(command for name in args.steps for command in STEPS[name].commands)):
        session.run(command)
    print("\n".join(["== summary", *session.summary]))
    print(f"{time.monotonic() - session.began:.0f} s; in {out}: {', '.join(sorted(p.name for p in out.iterdir()))}")
    return int(len(session.passed) < len(session.summary))


if __name__ == "__main__":
    sys.exit(run(parser().parse_args()))
