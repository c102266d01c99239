"""A builder in a process of its own: it may die, be stopped, find no space, or outlive the build that started it."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from engines.backends import isolated
from engines.backends.base import EngineOptions
from engines.backends.isolated import Request, compile_isolated
from engines.backends.tensorrt_rtx import TensorRtRtxBackend
from engines.errors import BuildError
from tests.engines.test_tensorrt import BUCKET, shim

CRASHES = {
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "its builder was killed by SIGSEGV",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "its builder was killed by SIGKILL",
    "import os; os._exit(7)": "its builder exited with 7",
    "raise MemoryError('not enough of it')": "its builder exited with 1",
}


@pytest.mark.parametrize("crash", CRASHES)
def test_a_builder_that_dies_is_reported_with_its_log(
    rtx: TensorRtRtxBackend, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    """Fault 28: what a library does to its process is an error of that engine."""
    source = f"import sys\nprint('[ERROR] out of memory on the device', file=sys.stderr, flush=True)\n{crash}\n"
    shim(tmp_path / "shim", "tensorrt_rtx", source, monkeypatch)
    out = tmp_path / "engines" / "stage_0.plan"
    with pytest.raises(BuildError) as caught:
        rtx.build(graph, [BUCKET], out)
    message = str(caught.value)
    assert CRASHES[crash] in message and "[ERROR] out of memory on the device" in message
    log = out.with_name("stage_0.plan.log")
    assert str(log) in message and "out of memory" in log.read_text()
    assert [path.name for path in out.parent.iterdir()] == [log.name], "no half engine is left"


ORPHAN = """
import json, os, pathlib, sys, time
asked = json.load(sys.stdin)
out, folder = pathlib.Path(asked["out"]), pathlib.Path(asked["out"]).parent
(folder / f"writes-{os.getpid()}").write_text(out.name)
for _ in range(3000):  # until the other one has started as well
    if len(list(folder.glob("writes-*"))) == 2:
        break
    time.sleep(0.01)
out.write_bytes(out.name.encode())
print(json.dumps({"layers": [[]], "peak_bytes": 1}))
"""


def test_no_two_workers_write_one_file(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 24: the worker of a killed builder goes on for a while, beside that of the build which is resumed."""
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "slow_worker.py").write_text(ORPHAN, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shim"))
    monkeypatch.setattr(isolated, "_WORKER", "slow_worker")
    out = tmp_path / "engines" / "stage_0.plan"
    request = Request("tensorrt_rtx", str(graph), str(out), ((1, 16),), EngineOptions(), None, 0, False, None)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_isolated, [request] * 2))
    names = {path.read_text() for path in out.parent.glob("writes-*")}
    assert len(names) == 2 and out.read_text() in names and out.name not in names


def test_a_full_disk_is_not_the_engines_fault(
    rtx: TensorRtRtxBackend, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 24: publishing turns this into an error that says what to do."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    monkeypatch.setattr(isolated, "uuid4", lambda: SimpleNamespace(hex="x"))
    (tmp_path / "stage_0.plan.x.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        rtx.build(graph, [BUCKET], tmp_path / "stage_0.plan")
    assert caught.value.errno == errno.ENOSPC and not (tmp_path / "stage_0.plan").exists()


def test_what_a_report_raises_ends_the_builder(rtx: TensorRtRtxBackend, graph: Path, tmp_path: Path) -> None:
    def stop(phase: str, done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rtx.build(graph, [BUCKET], tmp_path / "stage_0.plan", report=stop)
    assert not (tmp_path / "stage_0.plan").exists()
