"""What a backend is: it compiles stage graphs for buckets and loads what it compiled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from engines.buckets import Bucket

if TYPE_CHECKING:
    from engines.backends.device import Device

Arrays = Mapping[str, np.ndarray]


class Engine(ABC):
    """One loaded engine with static shapes. Not thread safe: its buffers are its own, one call at a time.

    inputs: the engine's input buffers by name. Write into them, then `run`; nothing is copied on the way.
    """

    inputs: dict[str, np.ndarray]

    @abstractmethod
    def run(self) -> Arrays:
        """Runs on what `inputs` hold. The arrays returned are the engine's own, valid until the next run."""

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Copies arrays of exactly the static shapes in, runs, and returns copies of the outputs."""
        for name, buffer in self.inputs.items():
            if inputs[name].shape != buffer.shape:
                raise ValueError(f"input {name!r}: expected {list(buffer.shape)}, found {list(inputs[name].shape)}")
            buffer[...] = inputs[name]
        return {name: value.copy() for name, value in self.run().items()}


class Backend(ABC):
    """Compiles and runs engines of one target through one provider (a library).

    Providers of one target read the same engine files.
    """

    target: ClassVar[str]
    provider: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]

    @abstractmethod
    def available(self) -> str | None:
        """None where this machine can run it, else why not: the package or driver that is missing."""

    @abstractmethod
    def build(self, stage_graph: Path, bucket: Bucket, out: Path) -> None:
        """Compiles a stage graph (symbolic batch and length) for a bucket into `out`, its weights beside it.

        Raises InputError for a graph that it cannot read.
        """

    @abstractmethod
    def load(self, engine_file: Path, threads: int | None) -> Engine:
        """Loads an engine; `threads` None leaves the number to the provider. Raises InputError."""

    def device(self) -> Device | None:
        """The GPU that the engines' buffers lie on; None for engines on host arrays. Raises TargetError without one."""
        return None

    def engine_name(self, unit: int | str, bucket: Bucket) -> str:
        """File name of an engine: stage_0_b8_s128.onnx, head_b8_s128.onnx."""
        stem = unit if unit == "head" else f"stage_{unit}"
        return f"{stem}_b{bucket.batch}_s{bucket.length}.onnx"
