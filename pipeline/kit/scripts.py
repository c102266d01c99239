"""Writes golden data, and scripts around trtexec and Polygraphy, for a GPU host."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx

from engines.backends.base import PLAIN, EngineOptions
from engines.backends.tensorrt import TIMING_CACHE
from engines.manifest import Manifest
from engines.plan import Unit, profile_stem, unit_name
from pipeline.gates.expected import Expected
from pipeline.kit.golden import Golden, write_golden

INT8 = "int8"
COMPILE, CHECK = "scripts/trtexec.sh", "scripts/polygraphy.sh"
_PLUGIN = "${PLUGIN:-plugins/libskimrt_plugins.so}"
_TRTEXEC_LEVELS = {"same-compute-capability": "sameComputeCapability", "ampere-plus": "ampere+"}

_COMPILE_HEAD = """\
#!/usr/bin/env bash
# Compiles every profile of this artifact as an engine, with trtexec: scripts/trtexec.sh [more options of trtexec]
#   OUT     folder for the engines, their layers and the timing cache; those in INT8, if any, go to int8/ in it
#   ONLY    compile only engines whose name contains this, such as stage_0_b8 or int8/
# The types are those of the graphs; --stronglyTyped is needed by TensorRT 10 and ignored by 11. --shapes makes the only
# profile exactly the bucket.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT="${OUT:-trtexec}"

engine() {
  local name="$1"
  shift
  [[ "$name" == *"${ONLY:-}"* ]] || return 0
  mkdir -p "$OUT/$(dirname "$name")"
  "${TRTEXEC:-trtexec}" "$@" --saveEngine="$OUT/$name.plan" --exportLayerInfo="$OUT/$name.layers.json"
}
"""

_CHECK_HEAD = """\
#!/usr/bin/env bash
# Checks engines against PyTorch in float32 on real inputs, with Polygraphy: scripts/polygraphy.sh [folder of engines]
#   PYTHON  the Python that has tensorrt and polygraphy (default python3)
# Exit code 0: all passed; 1: an engine differs; 2: nothing could be checked.
set -uo pipefail
cd "$(dirname "$0")/.."
ENGINES="${1:-%(engines)s}"
PLUGIN="%(plugin)s"
passed=0 failed=0 skipped=0

# Through Python: Polygraphy's --plugins only opens a library, and that before TensorRT is there to take its plugins.
polygraphy() {
  "${PYTHON:-python3}" -c '
import sys
import tensorrt
from polygraphy.tools import main
_, plugin, *words = sys.argv
if plugin and tensorrt.get_plugin_registry().load_library(plugin) is None:
    sys.exit(f"TensorRT {tensorrt.__version__} loads no plugins from {plugin}")
sys.argv = ["polygraphy", *words]
if words:
    sys.exit(main())' "$PLUGIN" "$@"
}
polygraphy || {
  echo "nothing can be checked: PYTHON must have tensorrt and polygraphy (pip install 'skimrt[gpu]')" >&2
  exit 2
}

# The engine of a stage has a profile for every bucket; one that trtexec made has the bucket's only.
check() {
  local name="$1" plan="$ENGINES/$2.plan" profile="$3"
  shift 3
  [[ ! -f "$ENGINES/$name.plan" ]] || plan="$ENGINES/$name.plan" profile=0
  if [[ ! -f "$plan" ]]; then
    echo "SKIPPED $name: $plan does not exist"
    skipped=$((skipped + 1))
  elif polygraphy run "$plan" --model-type engine --trt --optimization-profile "$profile" --rtol 0 \\
    --load-inputs "polygraphy/$name.inputs.json" --load-outputs "polygraphy/$name.outputs.json" --atol "$@"; then
    echo "PASSED $name"
    passed=$((passed + 1))
  else
    echo "FAILED $name"
    failed=$((failed + 1))
  fi
}
"""

_CHECK_TAIL = """
echo "$passed passed, $failed failed, $skipped skipped; %(covered)s"
[[ $failed == 0 ]] || exit 1
[[ $passed != 0 ]] || exit 2
"""


def write_gpu_kit(
    root: Path,
    expected: Expected,
    manifest: Manifest,
    options: EngineOptions = PLAIN,
    int8: Mapping[Unit, str] = MappingProxyType({}),
) -> list[Golden]:
    """Writes `polygraphy/` and `scripts/` into an artifact whose graphs are there, and returns the golden data.

    The golden data is about the graphs of the plan; quantised ones have the gates of a build only.

    int8:    graph of every unit that is quantised.
    options: how the engines are compiled; scripts expect the plugin libraries in `plugins/`.
    """
    golden = write_golden(root, expected, manifest)
    (root / "scripts").mkdir(exist_ok=True)
    for name, content in (
        (COMPILE, compile_script(root, manifest, options, int8)),
        (CHECK, check_script(manifest, golden, options)),
    ):
        (root / name).write_text(content, "utf-8", newline="\n")
        (root / name).chmod(0o755)
    return golden


def compile_script(
    root: Path, manifest: Manifest, options: EngineOptions, int8: Mapping[Unit, str] = MappingProxyType({})
) -> str:
    """The trtexec line of every profile; where it is quantised also of the one without, which has golden data."""
    common = ["--stronglyTyped", "--noTF32", "--skipInference", "--profilingVerbosity=detailed", "--dumpLayerInfo"]
    if options.optimization_level is not None:
        common.append(f"--builderOptimizationLevel={options.optimization_level}")
    if options.workspace is not None:
        common.append(f"--memPoolSize=workspace:{options.workspace}")
    if options.compatibility != "none":
        common.append(f"--hardwareCompatibilityLevel={_TRTEXEC_LEVELS[options.compatibility]}")
    plugin = f' --dynamicPlugins="{_PLUGIN}"' if options.plugin else ""
    cache = f' --timingCacheFile="$OUT/{TIMING_CACHE}"'
    lines = []
    graphs = manifest.plan.graphs
    quantised = [(unit, int8[unit], f"{INT8}/") for unit in graphs if unit in int8]
    for unit, graph, folder in [*((unit, graph, "") for unit, graph in graphs.items()), *quantised]:
        inputs = onnx.load(root / graph, load_external_data=False).graph.input
        for bucket in manifest.plan.buckets_of(unit):
            shapes = ",".join(
                "x".join([f"{value.name}:{bucket}", *(str(d.dim_value) for d in value.type.tensor_type.shape.dim[2:])])
                for value in inputs
            )
            words = shlex.join([f"--onnx={graph}", f"--shapes={shapes}", *common])
            lines.append(f'engine {folder}{profile_stem(unit, bucket)} {words}{plugin}{cache} "$@"')
    return "\n".join([_COMPILE_HEAD, *lines, ""])


def check_script(manifest: Manifest, golden: Sequence[Golden], options: EngineOptions) -> str:
    """The Polygraphy call of every profile that there is golden data for."""
    compiled = [r for r in manifest.engines if (r.target, r.precision) == ("tensorrt", manifest.plan.precision)]
    folders = {str(Path(record.file).parent) for record in compiled}
    indices = {(r.stage, bucket): index for r in compiled for index, bucket in enumerate(r.profiles)}
    head = {"engines": min(folders, default="trtexec"), "plugin": _PLUGIN if options.plugin else ""}
    lines = []
    for data in golden:
        tolerances = (f"{name}:{value:.6g}" for name, value in data.tolerances.items())
        profile = f"{unit_name(data.unit)} {indices.get((data.unit, data.bucket), 0)}"
        lines.append(f"check {profile_stem(data.unit, data.bucket)} {profile} {' '.join(tolerances)}")
    profiles = sum(len(manifest.plan.buckets_of(unit)) for unit in manifest.plan.units)
    covered = (
        f"golden data for {len(golden)} of {profiles} profiles, the shortest and longest bucket of every batch size"
    )
    if manifest.plan.precision == "bf16":
        covered += "; none in bf16, which the format cannot hold"
    return "\n".join([_CHECK_HEAD % head, *lines, _CHECK_TAIL % {"covered": covered}])
