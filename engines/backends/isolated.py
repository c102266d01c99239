"""Compiles an engine in a process of its own, so that a crash of the library is an error of that engine alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol
from uuid import uuid4

from engines.backends.base import Built, EngineOptions, Report
from engines.backends.layers import Layer
from engines.buckets import Bucket
from engines.errors import BuildError, InputError

_WORKER = "engines.backends.tensorrt_worker"
_SHOWN = 8
"""Errors, and last lines, of a log that an error message ends with."""


class Asked(Protocol):
    """A dataclass that a worker is asked with: the file to write, batch and length of every profile, and more."""

    @property
    def out(self) -> str: ...

    @property
    def buckets(self) -> tuple[tuple[int, int], ...]: ...


@dataclass(frozen=True)
class Request:
    """What the worker of TensorRT is asked for.

    library:      the module to compile with, tensorrt or tensorrt_rtx.
    buckets:      batch and length of every profile.
    plugin:       the plugin library; None for the function body.
    compactions:  the plugin layers that the network must have.
    inspect:      read the layers from the engine, which needs a GPU, instead of from the log.
    timing_cache: kept timings of kernels, read and written; None for none.
    """

    library: str
    graph: str
    out: str
    buckets: tuple[tuple[int, int], ...]
    options: EngineOptions
    plugin: str | None
    compactions: int
    inspect: bool
    timing_cache: str | None


def compile_isolated(request: Asked, report: Report | None = None, worker_module: str | None = None) -> Built:
    """Runs a worker, by default TensorRT's; its log lies beside the engine, and stays there if it fails.

    Raises InputError for a graph that the library cannot parse, OSError for a file that cannot be written, BuildError
    for whatever else goes wrong, a killed worker included. What `report` raises ends the worker.
    """
    out, started = Path(request.out), perf_counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    log = out.with_name(out.name + ".log")
    # Files that no other worker writes: one whose builder was killed goes on for a while, and must not write into the
    # engine and the log of the build that goes on after it, or into an artifact.
    fresh = out.with_name(f"{out.name}.{uuid4().hex}.partial")
    result: dict | None = None
    log.unlink(missing_ok=True)
    asked = json.dumps(_fields(request) | {"out": str(fresh)})
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", worker_module or _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, "PYTHONPATH": _with_this_package(os.environ.get("PYTHONPATH"))},
        )
        assert worker.stdin is not None and worker.stdout is not None
        try:
            with worker.stdin as pipe:
                pipe.write(asked)
            for line in worker.stdout:
                message = json.loads(line)
                if "phase" in message:
                    if report is not None:
                        report(message["phase"], message["done"])
                else:
                    result = message
        except BrokenPipeError:
            pass  # it has died, which its exit code tells
        except BaseException:
            worker.kill()
            raise
        finally:
            code = worker.wait()
            worker.stdout.close()
    if result is None or code != 0:
        fresh.unlink(missing_ok=True)
        raise _failure(out, log, code, result)
    os.replace(fresh, out)
    log.unlink(missing_ok=True)
    buckets = [Bucket(batch=batch, length=length) for batch, length in request.buckets]
    layers = {
        bucket: tuple(Layer.from_json(entry) for entry in entries)
        for bucket, entries in zip(buckets if result["layers"] else (), result["layers"], strict=True)
    }
    return Built(perf_counter() - started, result["peak_bytes"], layers)


def _fields(request: Any) -> dict[str, Any]:
    return asdict(request)


def _failure(out: Path, log: Path, code: int, result: dict | None) -> InputError | BuildError | OSError:
    if result is not None and result.get("kind") == "input":
        log.unlink()
        return InputError(result["error"])
    if result is not None and result.get("kind") == "storage":
        return OSError(result["errno"], result["error"], str(out))
    if result is not None and "error" in result:
        reason = result["error"]
    else:
        reason = (
            f"its builder was killed by {signal.Signals(-code).name}" if code < 0 else f"its builder exited with {code}"
        )
    lines = log.read_text("utf-8", "replace").splitlines()
    errors = [line for line in lines if line.startswith(("[ERROR]", "[INTERNAL_ERROR]"))]
    shown = [*errors[-_SHOWN:], *(line for line in lines[-_SHOWN:] if line not in errors)]
    # The first line stands for itself: it is what a manifest says.
    return BuildError("\n".join([f"{out.name}: {reason}; its log is {log}", *(f"    {line[:300]}" for line in shown)]))


def _with_this_package(path: str | None) -> str:
    root = str(Path(__file__).resolve().parents[2])
    return root if path is None else os.pathsep.join([root, path])
