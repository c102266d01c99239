"""Versions of the libraries that shape an artifact and its figures."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tokenizers", "numpy")


_COMPILED = ("sse", "ssse3", "avx", "fma", "f16c", "bmi", "abm", "popcnt", "movbe", "amx", "gfni", "vaes", "vpclmul")
"""How x86's sets begin that compilers use unasked where they are told to compile for the CPU at hand."""


def tool_versions() -> dict[str, str]:
    """Name to version, of those that are installed."""
    versions = {}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "asimddp", "asimd")
"""Of x86 and Arm, as Linux names them, best first. Clouds give CPUs of several generations one name, and what INT8 is
worth depends on these alone."""


def machine_record() -> dict:
    """For a results file: the machine and the versions."""
    return {
        "machine": {"processor": processor(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "versions": tool_versions(),
    }


def instruction_sets(info: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The machine, such as x86_64, then the sets of instructions that a compiler may use on its CPU, as Linux names
    them."""
    flags = _cpu_fields(info)
    flagged = {flag for flag in flags.get("flags", "").split() if flag.startswith(_COMPILED)}
    flagged |= set(flags.get("Features", "").split())
    return (platform.machine(), *sorted(flagged))


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name as the system gives it, and the widest instructions that its matrix products can use."""
    fields = _cpu_fields(info)
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    widest = next(filter(flags.__contains__, _INSTRUCTIONS), None)
    return f"{name} ({widest})" if widest else name


def _cpu_fields(info: Path) -> dict[str, str]:
    """What Linux says of the last CPU."""
    lines = info.read_text("utf-8", errors="replace").splitlines() if info.is_file() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def cache_folder(name: str) -> Path:
    """Where what only saves time is kept between runs: below SKIMRT_CACHE, or the user's cache directory."""
    base = os.environ.get("SKIMRT_CACHE") or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "skimrt" / name
