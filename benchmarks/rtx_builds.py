"""What TensorRT-RTX takes to compile the shipped checkpoints ahead of time, in every default bucket.

python -m benchmarks.rtx_builds [--only ltp-fp16-plugin] [--buckets 1x64,8x256] [--out FILE]
python -m benchmarks.rtx_builds --table    # prints the table of docs/results.md

Every engine is compiled for 8.0, 8.6, 8.9 and 12.0. Seconds are wall clock of one engine's own process, start included;
memory is that process's peak. What other versions of the tools measured does not stay in the results file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

from rich.console import Console

from engines.artifact import Artifact
from engines.machine import tool_versions
from pipeline.builder.compilation import EngineReport
from pipeline.builder.config import DEMO, BuildConfig
from pipeline.builder.steps import build
from pipeline.cli import main_of
from pipeline.report.markdown import table

METHODS = ("ltp", "transkimmer")
VARIANTS = {"fp32": ("fp32", False), "fp16": ("fp16", False), "fp16-plugin": ("fp16", True), "int8": ("int8", False)}
"""Precision, and whether TokenCompact is the plugin."""
TEXTS = 32
"""Texts of the gates that need no GPU."""
RESULTS = Path(__file__).parent / "results" / "rtx-builds.json"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.rtx_builds", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--buckets", help="shapes to compile (default: all default buckets)")
    p.add_argument("--jobs", type=int, help="engines compiled at a time (default: what memory and cores allow)")
    p.add_argument("--out", type=Path, default=RESULTS, help="results file (default: the committed one)")
    p.add_argument("--only", choices=[f"{m}-{name}" for m in METHODS for name in VARIANTS], help="one build alone")
    p.add_argument("--table", action="store_true", help="print the table of the results")
    return p


def run(args: argparse.Namespace) -> int:
    """Builds and writes the results, or prints the existing ones."""
    if args.table:
        print(markdown_table(json.loads(args.out.read_bytes())))
        return 0
    console, runs = Console(), read(args.out)
    for method in METHODS:
        for name, (precision, plugin) in VARIANTS.items():
            if args.only not in (None, f"{method}-{name}"):
                continue
            with tempfile.TemporaryDirectory() as folder:
                config = BuildConfig(
                    checkpoint=DEMO / method,
                    target="tensorrt-rtx",
                    precision=precision,
                    plugin=plugin,
                    buckets=args.buckets,
                    jobs=args.jobs,
                    samples=TEXTS,
                    metric_samples=TEXTS,
                    out=Path(folder) / "artifact",
                )
                started = perf_counter()
                artifact = build(config, console)
                runs[f"{method}-{name}"] = describe(artifact, method, plugin, perf_counter() - started)
                console.print(runs[f"{method}-{name}"])
                write(args, runs)
    return 0


def read(path: Path) -> dict[str, dict]:
    """The runs of a results file by name, if the same versions of the tools wrote it."""
    content = json.loads(path.read_bytes()) if path.is_file() else {}
    return content["runs"] if content.get("tools") == tool_versions() else {}


def write(args: argparse.Namespace, runs: dict[str, dict]) -> None:
    """Writes what is known so far."""
    machine = {"processor": platform.machine(), "cpus": os.cpu_count(), "jobs": args.jobs or "automatic"}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        json.dumps({"machine": machine, "tools": tool_versions(), "runs": runs}, indent=1) + "\n", "utf-8"
    )


def describe(artifact: Artifact, method: str, plugin: bool, seconds: float) -> dict:
    """The figures of one build."""
    manifest, reports = artifact.manifest, []
    for record in manifest.engines:
        assert record.report is not None
        reports.append(EngineReport.model_validate_json((artifact.path / record.report).read_bytes()))
    each = [report.seconds for report in reports]
    profiles = [(report, profile) for report in reports for profile in report.profiles]
    plugins = [sum(layer.kind == "custom_layer" for layer in profile.layers) for _, profile in profiles]
    ends = (len(record.profiles) for record in manifest.engines if record.stage != len(manifest.plan.stages) - 1)
    binding = manifest.engines[0].binding
    assert binding is not None
    return {
        "method": method,
        "precision": manifest.engines[0].precision,
        "plugin": plugin,
        "library": f"{binding.library} {binding.version}",
        "compute_capabilities": list(binding.compute_capabilities),
        "stages": len(manifest.plan.stages),
        "buckets": len(manifest.plan.buckets),
        "engines": len(reports),
        "profiles": len(profiles),
        "stage_ends": sum(ends),
        "plugin_layers": sum(plugins),
        "fusible_attention": sum(report.fusible for report, _ in profiles),
        "fused_attention": sum(profile.fused for _, profile in profiles),
        "megabytes": round(sum(report.size for report in reports) / 1e6, 1),
        "megabytes_of_the_largest": round(max(report.size for report in reports) / 1e6, 1),
        "seconds_per_engine_median": round(statistics.median(each), 3),
        "seconds_per_engine_longest": round(max(each), 3),
        "seconds_of_the_build": round(seconds, 1),
        "peak_megabytes_of_an_engine": round(max(report.peak_bytes for report in reports) / 1e6, 1),
        "gates": {gate.name: gate.model_dump(include={"status", "figures"}) for gate in manifest.gates},
    }


def markdown_table(results: dict) -> str:
    """Returns the table of docs/results.md. Counts are of layers, over all profiles."""
    head = ["model", "precision", "stage ends", "engines", "profiles", "size, MB", "seconds each", "memory, MB"]
    head += ["fused attention", "plugin layers", "INT8 products", "error"]
    rows = []
    for run in sorted(results["runs"].values(), key=lambda run: (run["method"], run["precision"], run["plugin"])):
        gates = {name.split(" (")[0]: gate for name, gate in run["gates"].items()}
        products = gates.get("INT8 products", {}).get("figures")
        error = gates["numeric: INT8 graphs" if products else "numeric: graphs"]["figures"]
        ratio = error.get("error_over_simulations" if products else "error_over_pytorchs")
        narrow = run["precision"] != "fp32"
        rows.append(
            [
                run["method"],
                run["precision"],
                "plugin" if run["plugin"] else "function body",
                str(run["engines"]),
                str(run.get("profiles", run["engines"])),  # an older run had an engine for each
                f"{run['megabytes']:.0f}",
                f"{run['seconds_per_engine_median']:.1f} to {run['seconds_per_engine_longest']:.1f}",
                f"{run['peak_megabytes_of_an_engine']:.0f}",
                f"{run['fused_attention']} of {run['fusible_attention']}" if narrow else "–",
                f"{run['plugin_layers']} of {run['stage_ends']}" if run["plugin"] else "–",
                f"{products['in_int8']} of {products['linear_layers']}" if products else "–",
                f"{ratio:.2f}x" if ratio is not None else f"{error['largest_difference']:.1e}",
            ]
        )
    capabilities = ", ".join(next(iter(results["runs"].values()))["compute_capabilities"])
    libraries = {run["library"].replace("_", "-") for run in results["runs"].values()}
    note = (
        f"{', '.join(sorted(libraries))} on {results['machine']['cpus']} cores, for compute capabilities "
        f"{capabilities}. Every engine is built in its own process. Seconds: the median and the longest of them. "
        "Memory: the largest peak. Error: of the stage graphs run by ONNX Runtime. In fp32 it is the largest "
        "difference from PyTorch. In fp16 and INT8 it is a multiple, of which at most 2 is allowed: of PyTorch's own "
        "error in fp16, or of the error of the INT8 simulation."
    )
    missing = [
        name for method in METHODS for variant in VARIANTS if (name := f"{method}-{variant}") not in results["runs"]
    ]
    if missing:
        note += f" Not measured: {', '.join(missing)}."
    return table(head, rows, note, names=3)


if __name__ == "__main__":
    main_of(parser, run)
