"""What TensorRT-RTX takes to compile the shipped checkpoints ahead of time, in every default bucket.

python benchmarks/rtx_builds.py [--buckets 1x64,8x256] [--out benchmarks/results/rtx-builds.json]

Every engine is compiled for 8.0, 8.6, 8.9 and 12.0. Seconds are wall clock of one engine's own process, start included;
memory is that process's peak.
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
from pipeline.builder import build
from pipeline.compilation import EngineReport
from pipeline.config import DEMO, BuildConfig
from pipeline.versions import tool_versions

METHODS = ("ltp", "transkimmer")
VARIANTS = (("fp32", False), ("fp16", False), ("fp16", True))
"""Precision, and whether TokenCompact is the plugin."""
TEXTS = 32
"""Texts of the gates that need no GPU."""


def main() -> None:
    """Builds, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--buckets", help="shapes to compile (default: all default buckets)")
    parser.add_argument("--jobs", type=int, help="engines compiled at a time (default: what memory and cores allow)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rtx-builds.json"))
    args = parser.parse_args()
    console, runs = Console(), []
    for method in METHODS:
        for precision, plugin in VARIANTS:
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
                runs.append(describe(artifact, method, plugin, perf_counter() - started))
                console.print(runs[-1])
                write(args, runs)


def write(args: argparse.Namespace, runs: list[dict]) -> None:
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
    layers = [sum(layer.kind == "custom_layer" for layer in report.layers) for report in reports]
    binding = manifest.engines[0].binding
    assert binding is not None
    return {
        "method": method,
        "precision": manifest.plan.precision,
        "plugin": plugin,
        "library": f"{binding.library} {binding.version}",
        "compute_capabilities": list(binding.compute_capabilities),
        "stages": len(manifest.plan.stages),
        "buckets": len(manifest.plan.buckets),
        "engines": len(reports),
        "plugin_layers": sum(layers),
        "fusible_attention": sum(report.fusible for report in reports),
        "fused_attention": sum(report.fused for report in reports),
        "megabytes": round(sum(report.size for report in reports) / 1e6, 1),
        "megabytes_of_the_largest": round(max(report.size for report in reports) / 1e6, 1),
        "seconds_per_engine_median": round(statistics.median(each), 3),
        "seconds_per_engine_longest": round(max(each), 3),
        "seconds_of_the_build": round(seconds, 1),
        "peak_megabytes_of_an_engine": round(max(report.peak_bytes for report in reports) / 1e6, 1),
        "gates": {gate.name: gate.status for gate in manifest.gates},
    }


if __name__ == "__main__":
    main()
