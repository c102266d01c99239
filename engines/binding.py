"""What an engine is bound to: the library, and the GPU or the compute capabilities that it was built for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from engines.files import Digest

Compatibility = Literal["none", "same-compute-capability", "ampere-plus"]
"""Which other GPUs an engine may run on: only its own model, all of its compute capability, or all from 8.0 on."""
ComputeCapability = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]?\.[0-9]$")]
"""Major and minor, such as 8.9."""


@dataclass(frozen=True)
class Gpu:
    """The GPU of this machine. `driver` is None where the management library does not tell it."""

    name: str
    compute_capability: str
    cuda: str
    driver: str | None


class Binding(BaseModel):
    """The library and the GPUs that an engine was built for.

    library, version:     what built it, and alone can load it; such as tensorrt 11.4.0.106.
    compute_capabilities: of the GPU that it was built on, or those that it was built for ahead of time.
    compatibility:        which GPUs beside `gpu` it may run on.
    gpu, cuda, driver:    of the machine that it was built on; None for an engine that was built ahead of time.
    plugin:               SHA-256 of the plugin library that it needs; None for the operator's function body.
    companion:            SHA-256 of the library that is loaded together with the plugin; None where none is.
    cpu:                  of engines for a CPU: the machine, such as x86_64, and the instruction sets that they may use.
    compiler:             the C++ compiler that made it; None where none was called.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    library: Literal["tensorrt", "tensorrt_rtx", "torch"]
    version: str
    compute_capabilities: tuple[ComputeCapability, ...] = ()
    compatibility: Compatibility = "none"
    gpu: str | None = None
    cuda: str | None = None
    driver: str | None = None
    plugin: Digest | None = None
    companion: Digest | None = None
    cpu: str | None = None
    compiler: str | None = None

    @model_validator(mode="after")
    def _for_one_kind_of_device(self) -> Binding:
        if (self.cpu is None) != bool(self.compute_capabilities):
            raise ValueError("binding: expected compute capabilities of a GPU, or the instructions of a CPU")
        return self

    @property
    def machine(self) -> str:
        """Name of the machines that the engines run on, and of the folder that holds them.

        Such as 11.4.0.106-sm90-nvidia-h100-80gb-hbm3, 1.7.1.116-sm80-sm89, or 2.13.0-x86-64-1c9f3a27 for a CPU.
        """
        if self.cpu is not None:
            kind = self.cpu.split()[0].replace("_", "-")
            digest = hashlib.sha256(self.cpu.encode()).hexdigest()[:8]
            return f"{self.version.split('+')[0]}-{kind}-{digest}"
        capabilities = (f"sm{value.replace('.', '')}" for value in self.compute_capabilities)
        parts = [self.version.replace("+", "-"), *capabilities]
        if self.gpu is not None and self.compatibility == "none":
            parts.append(re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-"))
        elif self.compatibility != "none":
            parts.append(self.compatibility)
        return "-".join(parts)

    def mismatch(self, version: str, gpu: Gpu, plugin: str | None, companion: str | None = None) -> str | None:
        """Why a machine cannot run such an engine, or None.

        version: of `library` there. plugin, companion: SHA-256 of these libraries there, None without one.
        """
        if self.cpu is not None:
            return f"compiled for a CPU ({self.cpu.split()[0]}), and is to run on {gpu.name}"
        if version != self.version:
            return f"built by {self.library} {self.version}, here is {version}"
        if not self._covers(gpu):
            return f"built for {self._made_for()}, here is {gpu.name} ({gpu.compute_capability})"
        if self.driver and gpu.driver and _numbers(gpu.driver) < _numbers(self.driver):
            return f"built with driver {self.driver}, here is the older {gpu.driver}"
        for what, bound, here in (
            ("the plugin library", self.plugin, plugin),
            ("the library beside the plugin", self.companion, companion),
        ):
            if bound is not None and here != bound:
                found = f"one of digest {here[:12]}…" if here else "none"
                return f"built with {what} of digest {bound[:12]}…, here is {found}"
        return None

    def mismatch_on_cpu(self, version: str, instructions: Sequence[str]) -> str | None:
        """Why a machine cannot run such an engine for a CPU, or None.

        version: of `library` there. instructions: the machine and the instruction sets there.
        """
        if self.cpu is None:
            return f"built for {self._made_for()}, and is to run on a CPU"
        if version != self.version:
            return f"built by {self.library} {self.version}, here is {version}"
        lacking = [name for name in self.cpu.split() if name not in instructions]
        if lacking:
            return f"compiled for a CPU with {', '.join(lacking)}, which this one ({instructions[0]}) lacks"
        return None

    def _covers(self, gpu: Gpu) -> bool:
        if self.compatibility == "ampere-plus":
            return _numbers(gpu.compute_capability) >= (8, 0)
        same_model = self.gpu is None or self.compatibility != "none" or gpu.name == self.gpu
        return same_model and gpu.compute_capability in self.compute_capabilities

    def _made_for(self) -> str:
        if self.compatibility == "ampere-plus":
            return "compute capability 8.0 and newer"
        capabilities = f"compute capability {', '.join(self.compute_capabilities)}"
        return f"{self.gpu} ({capabilities})" if self.gpu and self.compatibility == "none" else capabilities


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
