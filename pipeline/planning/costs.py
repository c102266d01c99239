"""Cost models: how long a call of a stage takes on a target, measured there or estimated from a device's data sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from engines.errors import InputError, validation_problems
from pipeline.model.config import EncoderConfig

Kind = Literal["first", "middle", "last", "whole"]
"""The position of a stage: it embeds, it is in the middle, it ends with the head, or it is the whole model."""


@dataclass(frozen=True)
class StageShape:
    """What the cost of a stage depends on: its position, and how many layers' attention it has."""

    kind: Kind
    layers: int


class CostModel(Protocol):
    """Seconds of one call, including everything that happens between two stages."""

    def alone(self, stage: StageShape, length: int) -> float:
        """Returns the seconds of one sample that passes through the stages alone, at batch 1."""

    def together(self, stage: StageShape, batch: int, length: int) -> float:
        """Returns the seconds of one batch, for calls of one engine that follow each other."""


class CostTable(BaseModel):
    """A measured cost model: seconds at some lengths, linear between them, and linear in the layers.

    processor, tools: what was measured, and with what. layers: attentions in the profiled stage of each kind.
    alone: kind to [length]. together: kind to batch to [length].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[5] = 5
    processor: str
    tools: dict[str, str]
    lengths: list[int]
    layers: dict[Kind, int]
    alone_seconds: dict[Kind, list[float]]
    together_seconds: dict[Kind, dict[int, list[float]]]

    def alone(self, stage: StageShape, length: int) -> float:
        return self._seconds(stage, length, self.alone_seconds)

    def together(self, stage: StageShape, batch: int, length: int) -> float:
        """Returns the seconds of a batch size that was not measured: on the line through the nearest two that were."""
        measured = sorted(next(iter(self.together_seconds.values())))
        below = max(size for size in measured if size <= batch)
        seconds = self._together(stage, below, length)
        if below == batch:
            return seconds
        other = next((size for size in measured if size > batch), [0, *measured][-2])
        more = (seconds - self._together(stage, other, length)) / (below - other)
        return seconds + (batch - below) * max(0.0, more)

    def _together(self, stage: StageShape, batch: int, length: int) -> float:
        if batch == 0:
            return 0.0
        return self._seconds(stage, length, {kind: by[batch] for kind, by in self.together_seconds.items()})

    def _seconds(self, stage: StageShape, length: int, table: Mapping[Kind, Sequence[float]]) -> float:
        """Returns the profiled stage of the kind, and the number of layers by which the two differ."""
        at: dict[Kind, float] = {k: float(np.interp(length, self.lengths, table[k])) for k in table}
        kind: Kind = stage.kind if stage.kind in at else "whole"
        part: Kind = "first" if "first" in at else "whole"
        more = self.layers["whole"] - self.layers[part]
        # From the call of the first stage to that of the whole model there is nothing more than layers.
        layer = (at["whole"] - at[part]) / more if more > 0 else at["whole"] / max(1, self.layers["whole"])
        return max(1e-7, at[kind] + (stage.layers - self.layers[kind]) * max(0.0, layer))

    @classmethod
    def read(cls, path: Path) -> CostTable:
        """Raises InputError for a file that is not a table."""
        try:
            return cls.model_validate_json(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: expected a cost table, found {error}") from None
        except ValidationError as error:
            raise InputError.listing(str(path), validation_problems(error)) from None


@dataclass(frozen=True)
class Faster:
    """The cheapest of several models: for buckets that keep the fastest of several engines, such as fp32 and INT8."""

    models: Sequence[CostModel]

    def alone(self, stage: StageShape, length: int) -> float:
        return min(model.alone(stage, length) for model in self.models)

    def together(self, stage: StageShape, batch: int, length: int) -> float:
        return min(model.together(stage, batch, length) for model in self.models)


@dataclass(frozen=True)
class Device:
    """A roofline model from a data sheet.

    flops:     peak of dense matrix products per second, in the served precision (fp16 on a GPU, fp32 on a CPU).
    bandwidth: bytes of memory per second.
    call:      seconds to start an engine and read its counts.
    share:     the part of the peak that an encoder's matrix products reach.
    """

    flops: float
    bandwidth: float
    call: float
    share: float
    bytes_per_value: int


DEVICES: dict[str, Device] = {
    # Peaks: NVIDIA's data sheets (A100 80 GB SXM, H100 SXM, L4, GeForce RTX 4090 with fp32 accumulation), without
    # sparsity. Call and share are assumptions, not measurements: a plan made with them should be measured.
    "A100": Device(312e12, 2.04e12, 40e-6, 0.5, 2),
    "H100": Device(989e12, 3.35e12, 40e-6, 0.4, 2),
    "L4": Device(121e12, 0.30e12, 40e-6, 0.5, 2),
    "RTX 4090": Device(165e12, 1.01e12, 40e-6, 0.5, 2),
    # Two cores with AVX-512, as the demo was measured on.
    "cpu": Device(120e9, 20e9, 250e-6, 0.9, 4),
}


@dataclass(frozen=True)
class AnalyticCost:
    """Returns the seconds of a call: per layer the larger of arithmetic and memory traffic, plus the call itself."""

    device: Device
    encoder: EncoderConfig

    def alone(self, stage: StageShape, length: int) -> float:
        return self.together(stage, 1, length)

    def together(self, stage: StageShape, batch: int, length: int) -> float:
        width, inner = self.encoder.hidden_size, self.encoder.intermediate_size
        weights = 4 * width**2 + self.encoder.feed_forward_products * width * inner
        flops = 2 * weights * batch * length + 4 * width * batch * length**2
        values = weights + batch * length * (8 * width + 2 * inner)
        device = self.device
        layer = max(flops / (device.share * device.flops), values * device.bytes_per_value / device.bandwidth)
        return device.call + stage.layers * layer
