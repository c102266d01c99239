"""The target `tensorrt` with engines that torch-tensorrt compiles from traced stages, not from their ONNX graphs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from engines.backends.base import PLAIN, Built, EngineOptions, Report
from engines.backends.tensorrt import TIMING_CACHE, TensorRtBackend
from engines.buckets import Bucket
from engines.errors import BuildError, SkimError, TargetError
from pipeline.graph.precision import Precision
from pipeline.graph.stages import HeadStage, Stage
from pipeline.graph.torch_tensorrt import compile_stage, missing
from pipeline.model.config import CheckpointConfig

_COMPATIBILITY = {"none": {}, "ampere-plus": {"hardware_compatible": True}}


class TracedBackend(TensorRtBackend):
    """Compiles in this process, which has the model on the GPU. Loads and runs as TensorRT does.

    A traced stage has one shape, so every bucket is an engine of its own.

    stages: by the stem of their graph's file name.
    """

    provider = "torch-tensorrt"
    isolated = False
    most_profiles = 1

    def __init__(
        self,
        config: CheckpointConfig,
        stages: Mapping[str, Stage | HeadStage],
        precision: Precision,
        options: EngineOptions,
    ) -> None:
        self._config, self._stages, self._precision, self._options = config, stages, precision, options

    def missing_to_build(self) -> str | None:
        return super().missing_to_build() or missing()

    def build(
        self,
        stage_graph: Path,
        buckets: Sequence[Bucket],
        out: Path,
        options: EngineOptions = PLAIN,
        report: Report | None = None,
    ) -> Built:
        """As any backend's, but with the options of the build, and the compaction always our plugin."""
        started, (bucket,) = time.perf_counter(), buckets
        try:
            given = {**settings(self._options), "timing_cache_path": str(out.parent / TIMING_CACHE)}
            plan = compile_stage(self._stages[stage_graph.stem], self._config, bucket, self._precision, given)
        except SkimError:
            raise
        except Exception as error:  # the converters raise whatever went wrong in them
            raise BuildError(f"{out.name}: torch-tensorrt cannot compile it: {error}") from error
        out.write_bytes(plan)
        return Built(seconds=time.perf_counter() - started)


def settings(options: EngineOptions) -> dict[str, object]:
    """The options as torch-tensorrt's arguments. Raises TargetError for one that it does not have."""
    if options.compatibility not in _COMPATIBILITY:
        raise TargetError(
            f"frontend torch-tensorrt: expected compatibility {' or '.join(_COMPATIBILITY)}, found "
            f"{options.compatibility}; build through ONNX"
        )
    settings: dict[str, object] = dict(_COMPATIBILITY[options.compatibility])
    if options.optimization_level is not None:
        settings["optimization_level"] = options.optimization_level
    if options.workspace is not None:
        settings["workspace_size"] = options.workspace << 20
    return settings
