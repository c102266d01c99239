"""Chooses what a build compiles for: backend, options, machines, and whether this machine can run the result."""

from __future__ import annotations

from dataclasses import dataclass

from engines.backends import BACKENDS, Backend, choose_builder
from engines.backends.base import EngineOptions
from engines.backends.plugin import plugin_digest
from engines.backends.tensorrt_rtx import TensorRtRtxBackend
from engines.binding import Binding
from engines.errors import InputError, TargetError
from pipeline.builder.config import BuildConfig
from pipeline.graph import torch_tensorrt
from pipeline.graph.precision import Precision, graph_precision


@dataclass(frozen=True)
class BuildTarget:
    """The target of a build.

    binding:    the machines that its engines will run on; None: any, or nothing is compiled.
    cannot_run: why this machine cannot run its engines; None: it can.
    """

    backend: Backend
    options: EngineOptions
    precision: str
    binding: Binding | None
    cannot_run: str | None

    @property
    def graph_precision(self) -> Precision:
        """The number format of the stage graphs."""
        return graph_precision(self.precision, self.backend.machine_bound)

    @property
    def chooses_int8_by_time(self) -> bool:
        """Whether engines are compiled in INT8 and in the wider precision, and the faster one of each pair stays."""
        return self.precision == "int8" and not self.backend.machine_bound

    @classmethod
    def of(cls, config: BuildConfig) -> BuildTarget:
        """Returns the target of a configuration.

        Raises InputError for settings that the target does not have, TargetError if something is missing here.
        """
        config = config.settled
        if config.frontend == "torch-tensorrt":
            _refuse_tracing(config)
        if config.export_only:
            backend = next(backend for backend in BACKENDS if backend.target == config.target)
            if not backend.has_kit:
                raise InputError(
                    f"--export-only: the target {config.target} is built where it is to run; leave it out"
                    if backend.machine_bound
                    else f"--export-only: the target {config.target} is built on any machine; leave it out"
                )
        else:
            backend = choose_builder(config.target, config.precision, _provider(config))
        wanted = config.plugin if config.plugin is not None else backend.plugin_by_default
        options = EngineOptions(
            plugin=bool(wanted),
            compute_capabilities=config.compute_capability,
            optimization_level=config.optimization_level,
            workspace=config.workspace,
            compatibility=config.compatibility,
        )
        problems = backend.refuse_unused(options)
        if config.timing_cache is not None and (config.export_only or not backend.needs_device_to_build):
            found = "nothing is compiled" if config.export_only else f"the target {config.target} times no kernels"
            problems.append(f"timing cache: {found}; leave it out")
        if config.precision not in backend.precisions:
            problems.append(f"precision {config.precision!r}: expected one of {', '.join(backend.precisions)}")
        if isinstance(backend, TensorRtRtxBackend) and not config.export_only:
            known = backend.known_capabilities()
            wrong = [value for value in config.compute_capability if value not in known]
            problems += [f"compute capability {value}: expected one of {', '.join(known)}" for value in wrong]
        if problems:
            raise InputError.listing(f"target {config.target!r}", problems)
        if options.plugin:
            plugin_digest()
        if config.export_only:
            return cls(backend, options, config.precision, None, "only exported, no engine was compiled")
        return cls(backend, options, config.precision, backend.binding(options), backend.cannot_run(options))


def _provider(config: BuildConfig) -> str | None:
    return None if config.torch_device is None else f"torch-{config.torch_device}"


def _refuse_tracing(config: BuildConfig) -> None:
    """Raises InputError for a build that torch-tensorrt cannot do, TargetError if it is missing."""
    if config.target != "tensorrt" or config.export_only or config.plugin is False:
        raise InputError(
            "frontend torch-tensorrt: expected the target tensorrt, with the plugin, and not only exported; build "
            "through ONNX"
        )
    missing = torch_tensorrt.missing()
    if missing is not None:
        raise TargetError(f"frontend torch-tensorrt: {missing}")
