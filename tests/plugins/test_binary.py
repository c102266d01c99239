"""The library as built: what it exports and needs, and what the compiler made of the kernels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from plugins.library import ENTRY_POINTS

from .native import BUILD

LOADS_IN_FLIGHT = 4  # kLoadsInFlight of row_copy.cuh
PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


def tool(name: str, source: str) -> Path:
    """A program on the path or in the wheels of the CUDA tools; skips without it."""
    wheels = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin"
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], str(wheels)]))
    if found is None:
        pytest.skip(f"{name} is not installed: {source}")
    return Path(found)


def output_of(*command: object, path: Path | None = None) -> str:
    environment = {**os.environ, "PATH": os.pathsep.join([str(path or ""), os.environ["PATH"]])}
    result = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def architectures(plugin_library) -> list[str]:
    """What the library is compiled for, oldest first, such as sm_75; older compilers know fewer."""
    cached = re.search(r"SKIMRT_CUDA_ARCHITECTURES:STRING=(.*)", (BUILD / "CMakeCache.txt").read_text("utf-8"))
    assert cached is not None
    return [f"sm_{value.removesuffix('-real')}" for value in cached[1].split(";")]


@pytest.fixture(scope="module")
def cuobjdump() -> Path:
    tool("nvdisasm", "pip install nvidia-cuda-nvdisasm")
    return tool("cuobjdump", "pip install nvidia-cuda-cuobjdump")


def test_exports_the_entry_points_and_nothing_else(plugin_library) -> None:
    lines = output_of(tool("nm", "apt install binutils"), "-D", "--defined-only", plugin_library).splitlines()
    assert sorted(line.split()[-1] for line in lines) == sorted(ENTRY_POINTS)


def test_needs_neither_tensorrt_nor_a_shared_cuda_runtime(plugin_library) -> None:
    needed = re.findall(
        r"\(NEEDED\).*\[(.*)\]", output_of(tool("readelf", "apt install binutils"), "-d", plugin_library)
    )
    assert needed and not [name for name in needed if re.search("nvinfer|tensorrt|cudart|libcuda", name)]


@pytest.mark.parametrize("operator", ["token_compact", "regroup"])
def test_ptxas_reports_no_spills(operator: str, tmp_path) -> None:
    nvcc = tool("nvcc", "a CUDA toolkit")
    report = output_of(
        nvcc,
        *("-std=c++17", "-arch=sm_80", "-Xptxas", "-v", f"-I{PLUGINS}"),
        *("-cubin", "-o", tmp_path / "kernel.cubin", PLUGINS / operator / "kernel.cu"),
    )
    properties = re.findall(r"\d+ bytes stack frame, .*", report)
    assert properties == ["0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"] * 4


def test_kernels_use_no_local_memory_on_any_architecture(plugin_library, cuobjdump, architectures) -> None:
    usage = output_of(cuobjdump, "--dump-resource-usage", plugin_library, path=cuobjdump.parent)
    kernels = re.findall(r"REG:\d+ STACK:(\d+) .*LOCAL:(\d+)", usage)
    # Two operators, four widths of access.
    assert kernels == [("0", "0")] * (8 * len(architectures))
    assert set(re.findall(r"arch = (sm_\d+)", usage)) == set(architectures)


def test_ptx_of_the_oldest_and_the_newest(plugin_library, cuobjdump, architectures) -> None:
    listed = output_of(cuobjdump, "-lptx", plugin_library, path=cuobjdump.parent)
    assert set(re.findall(r"\.(sm_\d+)\.ptx", listed)) == {architectures[0], architectures[-1]}


def test_fast_path_moves_16_bytes_at_a_time_without_atomics(plugin_library, cuobjdump, architectures) -> None:
    dump = output_of(cuobjdump, "-sass", plugin_library, path=cuobjdump.parent)
    functions = re.split(r"\n\s*Function : ", dump)[1:]
    fast = [function for function in functions if "5uint4" in function.splitlines()[0]]
    assert len(functions) == 8 * len(architectures) and len(fast) == 2 * len(architectures)
    for function in fast:
        assert len(re.findall(r"\bLDG\.\S*128", function)) >= LOADS_IN_FLIGHT
        assert len(re.findall(r"\bSTG\.\S*128", function)) >= LOADS_IN_FLIGHT
    for function in functions:
        assert not re.search(r"\b(LDL|STL|ATOM|ATOMG|ATOMS|RED|REDG)\b", function)
