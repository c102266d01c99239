"""What an engine is bound to: the library, and the GPU or the compute capabilities that it was built for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    library: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    compute_capabilities: tuple[ComputeCapability, ...] = Field(min_length=1)
    compatibility: Compatibility = "none"
    gpu: str | None = None
    cuda: str | None = None
    driver: str | None = None
    plugin: Digest | None = None
    companion: Digest | None = None

    @property
    def place(self) -> str:
        """Name of the folder for engines so bound: engines of the same place replace each other.

        Such as 11.4.0.106-sm90-nvidia-h100-80gb-hbm3, or 1.7.1.116-sm80-sm89.
        """
        parts = [self.version, *(f"sm{value.replace('.', '')}" for value in self.compute_capabilities)]
        if self.gpu is not None and self.compatibility == "none":
            parts.append(re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-"))
        elif self.compatibility != "none":
            parts.append(self.compatibility)
        return "-".join(parts)

    def mismatch(self, version: str, gpu: Gpu, plugin: str | None, companion: str | None = None) -> str | None:
        """Why a machine cannot run such an engine, or None.

        version: of `library` there. plugin, companion: SHA-256 of these libraries there, None without one.
        """
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
