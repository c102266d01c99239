"""python -m pipeline.build: turns a checkpoint that learned to skip tokens into engines that really skip them."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import get_args

from pipeline.importing import importing, program

with importing(__name__, "skimrt[cpu]"):
    from rich.console import Console

    from engines.artifact import Artifact
    from engines.backends.tensorrt_rtx import DEFAULT_COMPUTE_CAPABILITIES
    from engines.head import HeadKind
    from engines.manifest import BENCH_NAME
    from engines.memory import memory_bytes
    from pipeline.builder.baseline import build_against_dense
    from pipeline.builder.config import DEMO, TORCH_DEVICES, BuildConfig, read_build_config, require_demo
    from pipeline.builder.measure import Timing, speedups
    from pipeline.builder.next_step import run_command
    from pipeline.builder.target import BuildTarget
    from pipeline.cli import add_column_flags, main_of, not_checked, print_gates
    from pipeline.planning.costs import DEVICES


def parser() -> argparse.ArgumentParser:
    """The command line; every flag is a field of BuildConfig and a key of the TOML file."""
    p = argparse.ArgumentParser(
        prog=program("build"),
        description="Builds an artifact: cuts the model where it drops tokens, compiles every stage for every bucket "
        "(a static batch x length), checks the result against PyTorch and publishes it only if the gates pass. Without "
        "arguments it builds the shipped demo for the CPU.",
        epilog="examples: python -m pipeline.build --checkpoint runs/ltp --dense runs/dense --out artifact-ltp\n"
        "          python -m pipeline.build build.toml --force",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = BuildConfig()
    p.add_argument("config", nargs="?", type=Path, metavar="CONFIG.toml", help="settings; flags override them")
    p.add_argument("--checkpoint", help="directory of the trained model (default: the shipped LTP demo)")
    p.add_argument(
        "--dense",
        help="dense checkpoint of the same task and tokenizer, to compare accuracy and speed with; where engines run "
        "here it is built too, as OUT-dense",
    )
    p.add_argument("--target", choices=_choices("target"), help="what runs the engines (default cpu)")
    p.add_argument(
        "--precision",
        choices=_choices("precision"),
        help="number format (default auto: the fastest one whose gates pass, timed on this machine; INT8 only where "
        "--calibration names texts)",
    )
    p.add_argument(
        "--buckets",
        help="shapes to compile, such as 1x128,8x128 (default: batches 1 and 8, lengths as the planner finds best; "
        "where it has no costs, powers of two and quarters between)",
    )
    _add_planning_flags(p.add_argument_group("planning"), default)
    p.add_argument("--data", help=f"texts for the gates: a named set or a file (default {default.data})")
    add_column_flags(p)
    p.add_argument("--samples", type=int, help=f"texts for numeric and decision parity (default {default.samples})")
    p.add_argument("--metric-samples", type=int, help=f"texts for the task metric (default {default.metric_samples})")
    p.add_argument("--max-drop", type=float, help=f"points that the metric may lose (default {default.max_drop})")
    p.add_argument(
        "--calibration",
        help="typical texts, for the plan and for INT8 ranges: a named set or a file (default: the "
        "dev split of --data; a file has no splits, so all of it)",
    )
    p.add_argument("--threads", type=int, help="CPU threads of the engines")
    _add_gpu_flags(p.add_argument_group("GPU targets"))
    p.add_argument("--jobs", type=int, help="engines compiled at a time (default: as many as memory and cores allow)")
    p.add_argument("--out", help=f"directory to publish (default {default.out})")
    p.add_argument("--force", action="store_const", const=True, help="replace an existing artifact")
    p.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="continue an interrupted build of the same inputs (default)",
    )
    p.add_argument("--json", action="store_true", help="print the result as JSON")
    return p


def _add_planning_flags(group: argparse._ArgumentGroup, default: BuildConfig) -> None:
    group.add_argument(
        "--stages",
        help="auto (the planner's choice, or with --buckets where enough tokens die), a number of stages, or the "
        "layers to cut at, such as 1,3 (default auto)",
    )
    group.add_argument(
        "--max-profiles",
        type=int,
        help=f"shapes that the planner may use, over all stages (default {default.max_profiles})",
    )
    group.add_argument(
        "--memory",
        type=int,
        metavar="MIB",
        help="memory that the loaded engines may take, as estimated; the planner keeps to it by fewer shapes",
    )
    group.add_argument(
        "--token-budget",
        type=int,
        help="tokens of a call: every length also gets the largest batch that it allows, so that short texts run in "
        "larger ones, such as 2048 for 8x256 and 64x32 (default: no larger batches)",
    )
    group.add_argument(
        "--device",
        choices=list(dict.fromkeys((*DEVICES, *TORCH_DEVICES))),
        help="target torch: cpu or cuda, what to compile for (default cuda if it is there); otherwise plan for this "
        "device's data sheet instead of measuring this machine",
    )
    group.add_argument(
        "--explain", action="store_const", const=True, help="show the chosen plan beside the alternatives"
    )


def _add_gpu_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--frontend",
        choices=_choices("frontend"),
        help="tensorrt: the way from PyTorch to an engine (default onnx; the other one always uses the plugin)",
    )
    group.add_argument(
        "--plugin",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="drop tokens with SkimRT's kernel (default for tensorrt, torch on a GPU) or with standard operators",
    )
    group.add_argument(
        "--compute-capability",
        help="tensorrt-rtx: the GPUs to compile for, such as 8.6,8.9 "
        f"(default {','.join(DEFAULT_COMPUTE_CAPABILITIES)})",
    )
    group.add_argument("--optimization-level", type=int, help="tensorrt: 0 (built soonest) to 5 (searched longest)")
    group.add_argument("--workspace", type=int, metavar="MIB", help="tensorrt: scratch memory of a layer at most")
    group.add_argument(
        "--compatibility",
        choices=_choices("compatibility"),
        help="tensorrt: GPUs that the engines must run on beside this one (default none)",
    )
    group.add_argument(
        "--timing-cache",
        metavar="FILE",
        help="tensorrt: kernel timings that builds on one GPU share, read and written (default: each artifact's own)",
    )
    group.add_argument(
        "--export-only",
        action="store_const",
        const=True,
        help="write graphs, plugin, golden data and scripts for a machine with a GPU, and compile nothing",
    )


def _choices(field: str) -> tuple[str, ...]:
    """Returns the possible values of a field of BuildConfig."""
    return get_args(BuildConfig.model_fields[field].annotation)


def run(args: argparse.Namespace) -> int:
    """Builds, and prints the result."""
    flags = {name: value for name, value in vars(args).items() if name not in ("config", "json")}
    config = read_build_config(args.config, flags)
    if config.checkpoint.parent == DEMO:
        require_demo()
    console = Console(stderr=args.json)
    artifact = build_against_dense(config, console)
    bench = _bench(artifact)
    if args.json:
        gates = [gate.model_dump() for gate in artifact.manifest.gates]
        print(json.dumps({"artifact": str(config.out), "gates": gates, "bench": bench}))
        return 0
    console.print(
        f"\nartifact   {config.out}  ({len(artifact.manifest.engines)} engines, "
        f"{len(artifact.manifest.plan.stages)} stages)"
    )
    memory = memory_bytes(artifact.manifest, artifact.manifest.engines, artifact.sizes)
    console.print(f"memory     {memory / 1e6:.0f} MB (estimated) with every profile in use", highlight=False)
    print_gates(artifact.manifest.gates, console)
    if bench is not None:
        timings = [Timing(**timing) for timing in bench["timings"]]
        for batch, ratio in speedups(timings, "pruned", "dense").items():
            console.print(
                f"speed      batch {batch}: {ratio:.2f} times the dense model's; "
                f"{bench['flops_ratio']:.2f} times fewer FLOPs (texts of at most {bench['max_length']} tokens)",
                highlight=False,
            )
    command = _next_command(config, artifact.manifest.head.kind)
    console.print(f"next       {command}", markup=False, highlight=False, soft_wrap=True)
    if left := not_checked(artifact.manifest.gates):
        console.print(f"SKIPPED    so not checked: {left}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _next_command(config: BuildConfig, kind: HeadKind) -> str:
    """Returns the command to run next, and where to run it."""
    if config.export_only:
        command = shlex.join(["pipeline.build", *config.arguments])
        return f"on a machine with a GPU: {Path(sys.executable).name} -m {command} adds its engines to {config.out}"
    where = "" if BuildTarget.of(config).cannot_run is None else "on a machine with a GPU: "
    return where + run_command(config.out, kind)


def _bench(artifact: Artifact) -> dict | None:
    path = artifact.path / BENCH_NAME
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


if __name__ == "__main__":
    main_of(parser, run)
