"""Ways to run a stage at all its buckets through OpenVINO: a model for each, `If` branches of one, one dynamic model,
and a dynamic model with models of their own for the most frequent buckets.

python -m benchmarks.cpu_profiles demo/output/ltp [--reviews 128] [--threads 1] [--processor-time] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calib.data import read_examples
from engines.backends.base import Arrays, Engine, Profile
from engines.backends.openvino import OpenVinoBackend, compile_on_cpu, core, port_name, shared_tensor
from engines.buckets import Bucket
from engines.errors import InputError
from engines.machine import machine_record
from engines.runner import Runner
from engines.tokenization import Text
from pipeline.builder.measure import alternate
from pipeline.cli import main_of

_FREQUENT = 8
"""Buckets of an engine that a mixture has models of their own for."""


class StaticModels(Engine):
    """A compiled model for each bucket, as SkimRT had it: every one repacks the weights for itself."""

    def __init__(self, file: Path, threads: int | None) -> None:
        self._file, self._threads = file, threads
        self._profiles: dict[Bucket, Profile] = {}

    def profile(self, bucket: Bucket) -> Profile:
        if bucket not in self._profiles:
            model = core().read_model(self._file)
            model.reshape({port: _static(port, bucket) for port in model.inputs})
            compiled = compile_on_cpu(model, self._threads)
            inputs = {port_name(port): port for port in compiled.inputs}
            names = {port_name(port): port for port in compiled.outputs}
            self._profiles[bucket] = _Request(compiled.create_infer_request(), inputs, names)
        return self._profiles[bucket]


class Branches(Engine):
    """One compiled model of an `If` for each bucket, whose bodies share the weights; a number selects the branch."""

    def __init__(self, file: Path, threads: int | None) -> None:
        self._file, self._threads = file, threads
        self._profiles: dict[Bucket, Profile] = {}

    def profile(self, bucket: Bucket) -> Profile:
        if bucket not in self._profiles:
            raise InputError(f"{bucket}: not among the buckets that were prepared")
        return self._profiles[bucket]

    def prepare(self, buckets: Iterable[Bucket]) -> None:
        """Compiles all of them together."""
        wanted = list(buckets)
        compiled = compile_on_cpu(_branching(core().read_model(self._file), wanted), self._threads)
        request, selected = compiled.create_infer_request(), np.zeros(1, np.int32)
        ports: list[dict[str, Any]] = [{} for _ in wanted]
        results: list[dict[str, Any]] = [{} for _ in wanted]
        for found, side in ((ports, compiled.inputs), (results, compiled.outputs)):
            for port in side:
                name = port.any_name
                if name == "selected":
                    request.set_tensor(port, shared_tensor(selected))
                else:
                    base, place = name.rsplit(".", 1)
                    found[int(place)][base] = port
        for place, bucket in enumerate(wanted):
            self._profiles[bucket] = _Branch(request, ports[place], results[place], selected, place)
            self._profiles[bucket].run()


class Mixture(Engine):
    """The dynamic model, and a model for each of the `_FREQUENT` buckets that are called most in the first texts."""

    def __init__(self, file: Path, threads: int | None) -> None:
        self._static, self._dynamic = StaticModels(file, threads), OpenVinoBackend().load(file, threads)
        self._calls: Counter[Bucket] = Counter()

    def profile(self, bucket: Bucket) -> Profile:
        return _Mixed(self, bucket)

    def chosen(self, bucket: Bucket) -> Profile:
        """What runs a bucket's next call."""
        self._calls[bucket] += 1
        frequent = [found for found, _ in self._calls.most_common(_FREQUENT)]
        return (self._static if bucket in frequent else self._dynamic).profile(bucket)


class _Mixed(Profile):
    def __init__(self, engine: Mixture, bucket: Bucket) -> None:
        self._engine, self._bucket = engine, bucket
        self.inputs = {name: array.copy() for name, array in engine._dynamic.profile(bucket).inputs.items()}

    def run(self) -> Arrays:
        profile = self._engine.chosen(self._bucket)
        for name, array in self.inputs.items():
            profile.inputs[name][...] = array
        return profile.run()


class _Request(Profile):
    """A request with input arrays of its own."""

    def __init__(self, request: Any, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        self._request, self._outputs = request, outputs
        self.inputs = {}
        for name, port in inputs.items():
            self.inputs[name] = np.zeros(tuple(port.shape), port.element_type.to_dtype())
            request.set_tensor(port, shared_tensor(self.inputs[name]))

    def run(self) -> Arrays:
        self._request.infer(share_outputs=True)
        return {name: self._request.get_tensor(port).data for name, port in self._outputs.items()}


class _Branch(_Request):
    def __init__(
        self, request: Any, inputs: dict[str, Any], outputs: dict[str, Any], selected: np.ndarray, place: int
    ) -> None:
        super().__init__(request, inputs, outputs)
        self._selected, self._place = selected, place

    def run(self) -> Arrays:
        self._selected[0] = self._place
        return super().run()


def _static(port: Any, bucket: Bucket) -> Any:
    import openvino

    return openvino.PartialShape([bucket.batch, bucket.length, *list(port.partial_shape)[2:]])


def _branching(base: Any, buckets: Sequence[Bucket]) -> Any:
    """A model of an `If` for each bucket. Idle ones give a tiny constant: a full one of zeros costs time."""
    import openvino
    from openvino import opset13 as ops

    selected = ops.parameter([1], np.int32)
    selected.output(0).set_names({"selected"})
    parameters, results = [selected], []
    for place, bucket in enumerate(buckets):
        body = base.clone()
        body.reshape({port: _static(port, bucket) for port in body.inputs})
        idle = [ops.constant(np.zeros([1] * len(o.shape), o.element_type.to_dtype())) for o in body.outputs]
        other = openvino.Model([ops.result(constant) for constant in idle], [], "idle")
        chosen = ops.equal(selected, ops.constant(np.array([place], np.int32)))
        branch = ops.if_op(chosen.output(0))
        branch.set_then_body(body)
        branch.set_else_body(other)
        for inner in body.get_parameters():
            outer = ops.parameter(inner.get_partial_shape(), inner.get_element_type())
            outer.output(0).set_names({f"{port_name(inner.output(0))}.{place}"})
            parameters.append(outer)
            branch.set_input(outer.output(0), inner, None)
        for port, result, nothing in zip(body.outputs, body.get_results(), other.get_results(), strict=True):
            output = ops.result(branch.set_output(result, nothing))
            output.output(0).set_names({f"{port_name(port)}.{place}"})
            results.append(output)
    return openvino.Model(results, parameters)


class _Way(OpenVinoBackend):
    """The backend with other engines."""

    def __init__(self, make: Callable[[Path, int | None], Engine]) -> None:
        self._make = make

    def load(self, engine_file: Path, threads: int | None, binding: object = None, read: object = None) -> Engine:
        return self._make(engine_file, threads)


WAYS: dict[str, OpenVinoBackend] = {
    "static": _Way(StaticModels),
    "branches": _Way(Branches),
    "mixture": _Way(Mixture),
    "dynamic": OpenVinoBackend(),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.cpu_profiles", description=(__doc__ or "").splitlines()[0])
    p.add_argument("artifact", type=Path, help="directory that pipeline.build wrote for the target cpu")
    p.add_argument("--reviews", type=int, default=128, help="texts that are timed (default 128)")
    p.add_argument("--rounds", type=int, default=5, help="times that every chunk is timed (default 5)")
    p.add_argument("--threads", type=int, help="CPU threads of the engines")
    p.add_argument(
        "--processor-time", action="store_true", help="instead of wall-clock time, where the machine is busy"
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    p.add_argument("--alone", choices=list(WAYS), help="load one way in this process, and print what it took")
    return p


def run(args: argparse.Namespace) -> int:
    """Prints, and writes, times, memory, and the seconds of loading and of a first answer, of every way."""
    texts = [example.content for example in read_examples("movie-reviews", "test")[: args.reviews]]
    if args.alone is not None:
        print(json.dumps(alone(args.artifact, args.alone, texts[0], args.threads)))
        return 0
    clock = time.process_time if args.processor_time else time.perf_counter
    rows = [compare(args.artifact, texts, batch, args.rounds, args.threads, clock) for batch in (1, 8)]
    words = [sys.executable, "-m", "benchmarks.cpu_profiles", str(args.artifact)]
    words += [] if args.threads is None else ["--threads", str(args.threads)]
    taken = {way: json.loads(subprocess.check_output([*words, "--alone", way])) for way in WAYS}
    for way in WAYS:
        times = ", ".join(f"batch {row['batch']} {row['milliseconds'][way]:.2f} ms a text" for row in rows)
        ratios = ", ".join(f"{row['over_static'][way]:.3f}" for row in rows)
        print(f"{way}: {times} ({ratios} times as fast as static); {taken[way]}")
    if args.json is not None:
        record = {**machine_record(), "artifact": args.artifact.name, "threads": args.threads}
        record["seconds"] = "of the processor" if args.processor_time else "of the clock"
        args.json.write_text(json.dumps({**record, "rows": rows, "alone": taken}, indent=1) + "\n", "utf-8")
    return 0


def compare(
    path: Path, texts: Sequence[Text], batch: int, rounds: int, threads: int | None, clock: Callable[[], float]
) -> dict:
    """Milliseconds a text of every way in turns, and the median ratio to static models."""
    ways: dict[str, Callable[[Sequence[Text]], object]] = {}
    for name, backend in WAYS.items():
        runner = Runner(path, backend, threads=threads, max_batch=batch, truncate=True, verify=False)
        runner.warm_up()
        runner(texts)
        ways[name] = runner
    chunks = alternate(ways, texts, rounds, clock=clock)
    return {
        "batch": batch,
        "milliseconds": {name: 1e3 * sum(seconds) / len(texts) for name, seconds in chunks.items()},
        "over_static": {
            name: statistics.median(s / w for s, w in zip(chunks["static"], chunks[name], strict=True)) for name in ways
        },
    }


def alone(path: Path, way: str, text: Text, threads: int | None) -> dict:
    """What a fresh process takes: the first answer where nothing is loaded before, and everything loaded and run."""
    before, started = _anonymous(), time.perf_counter()
    runner = Runner(path, WAYS[way], threads=threads, truncate=True)
    found = {}
    if way != "branches":  # whose branches are compiled together or not at all
        runner([text])
        found["first_answer_seconds"] = round(time.perf_counter() - started, 2)
    started = time.perf_counter()
    runner.warm_up()
    found["load_seconds"] = round(time.perf_counter() - started, 2)
    found["anonymous_megabytes"] = round((_anonymous() - before) / 1e6)
    return found


def _anonymous() -> int:
    """Bytes of this process that no file backs; Linux counts them."""
    lines = Path("/proc/self/smaps_rollup").read_text("ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


if __name__ == "__main__":
    main_of(parser, run)
