"""CMake: installing, building without CUDA, and what it says when TensorRT's headers are not to be had."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from plugins.library import FILE_NAME, open_library

from .native import BUILD

SOURCE = BUILD.parent
HEADERS = BUILD / "tensorrt_headers" / "kernel_lens" / "include" / "tensorrt"


def cmake(*arguments: object) -> subprocess.CompletedProcess[str]:
    missing = subprocess.run(["sh", SOURCE / "cmake" / "missing.sh"], capture_output=True, text=True, check=True).stdout
    if missing or shutil.which("ninja") is None:
        pytest.skip(missing.strip() or "ninja is not installed")
    return subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, timeout=600)


def configure(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return cmake("-S", SOURCE, "-B", folder, "-G", "Ninja", *options)


def test_installs_what_a_deployment_needs(plugin_library, tmp_path) -> None:
    result = cmake("--install", BUILD, "--prefix", tmp_path)
    assert result.returncode == 0, result.stderr
    installed = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert installed == {
        FILE_NAME,
        "libskimrt_autoload.so",
        "libtensorrt_rtx.so",
        "contract.yaml",
        "cases.txt",
        "operator.h",
        "kernel.h",
    }
    (library,) = tmp_path.rglob(FILE_NAME)
    assert open_library(library)


def test_configures_without_cuda(tmp_path) -> None:
    if not HEADERS.is_dir():
        pytest.skip("build/ was configured with a TENSORRT_ROOT of its own")
    result = configure(tmp_path, "-DSKIMRT_WITH_CUDA=OFF", f"-DTENSORRT_ROOT={HEADERS}")
    assert result.returncode == 0, result.stderr
    assert "the plugin library is not built and its tests are skipped" in result.stdout
    targets = cmake("--build", tmp_path, "--target", "help").stdout
    assert "token_compact_address" in targets and "skimrt_plugins" not in targets


NVCC = """#!/bin/sh
if [ "$1" = --list-gpu-arch ]; then echo {known}; exit; fi
case "$*" in
  *compute_1[0-9][0-9]*) echo "nvcc fatal   : Unsupported gpu architecture 'compute_100'"; exit 1 ;;
esac
exec {nvcc} "$@"
"""


@pytest.mark.parametrize(
    ("known", "chosen"),
    [
        (
            "compute_50 compute_75 compute_80 compute_86 compute_87 compute_89 compute_90",
            "75;80-real;86-real;89-real;90",
        ),
        ("compute_80 compute_86 compute_87", "80;86"),
    ],
)
def test_kernels_are_compiled_for_what_an_older_nvcc_knows(tmp_path, known: str, chosen: str) -> None:
    """To name another one is a fatal error, as before nvcc 12.8 all are from 10.0 on."""
    nvcc = shutil.which("nvcc")
    if nvcc is None or not HEADERS.is_dir():
        pytest.skip("nvcc is not installed, or build/ was configured with a TENSORRT_ROOT of its own")
    (tmp_path / "nvcc").write_text(NVCC.format(known=known, nvcc=nvcc))
    (tmp_path / "nvcc").chmod(0o755)
    options = (f"-DCMAKE_CUDA_COMPILER={tmp_path / 'nvcc'}", f"-DTENSORRT_ROOT={HEADERS}")
    result = configure(tmp_path / "build", *options)
    assert result.returncode == 0, result.stderr
    assert f"SKIMRT_CUDA_ARCHITECTURES:STRING={chosen}\n" in (tmp_path / "build" / "CMakeCache.txt").read_text()


@pytest.mark.slow
def test_builds_and_tests_without_cuda(tmp_path) -> None:
    assert configure(tmp_path, "-DSKIMRT_WITH_CUDA=OFF").returncode == 0
    built = cmake("--build", tmp_path)
    assert built.returncode == 0, built.stdout
    tested = subprocess.run(["ctest", "--test-dir", tmp_path], capture_output=True, text=True, timeout=600)
    assert tested.returncode == 0, tested.stdout
    assert "device (Skipped)" in tested.stdout


def test_says_where_it_looked_for_headers(tmp_path) -> None:
    result = configure(tmp_path / "build", "-DSKIMRT_WITH_CUDA=OFF", f"-DTENSORRT_ROOT={tmp_path}")
    assert result.returncode != 0
    # CMake breaks lines where it likes.
    assert f"expected NvInfer.h in {tmp_path}/include" in " ".join(result.stderr.split())


def test_refuses_headers_that_are_too_old(tmp_path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "NvInfer.h").touch()
    (tmp_path / "include" / "NvInferVersion.h").write_text(
        "#define TRT_MAJOR_ENTERPRISE 10\n#define TRT_MINOR_ENTERPRISE 3\n"
    )
    result = configure(tmp_path / "build", "-DSKIMRT_WITH_CUDA=OFF", f"-DTENSORRT_ROOT={tmp_path}")
    assert result.returncode != 0
    assert "expected 10.14 or newer, found 10.3" in " ".join(result.stderr.split())
