"""The registry of backends: what runs a target, and which one is taken when nothing is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping

from engines.backends.base import Backend, Engine, Profile
from engines.backends.onnxruntime import OnnxRuntimeBackend
from engines.backends.openvino import OpenVinoBackend
from engines.backends.tensorrt import TensorRtBackend
from engines.backends.tensorrt_rtx import TensorRtRtxBackend
from engines.backends.torch_aoti import TorchCpuBackend, TorchCudaBackend
from engines.binding import Binding
from engines.errors import InputError, TargetError
from engines.manifest import EngineRecord, Manifest

BACKENDS: tuple[Backend, ...] = (
    TensorRtBackend(),
    TensorRtRtxBackend(),
    TorchCudaBackend(),
    OpenVinoBackend(),
    OnnxRuntimeBackend(),
    TorchCpuBackend(),
)
"""In order of preference: of the backends that can run here, the first is taken."""

__all__ = ["BACKENDS", "Backend", "Engine", "Profile", "choose_backend", "choose_builder", "records_for", "targets"]


def targets() -> list[str]:
    """The targets that have a backend, preferred first."""
    return list(dict.fromkeys(backend.target for backend in BACKENDS))


def choose_backend(
    target: str = "auto",
    provider: str | None = None,
    built: Mapping[str, Collection[str]] | None = None,
    bindings: Collection[tuple[str, Binding]] = (),
) -> Backend:
    """The preferred backend that this machine can run.

    target:   "auto" or one of `targets()`.
    provider: restricts the choice to one library, such as "openvino".
    built:    the targets that an artifact holds engines for, and their precisions; None when nothing is built yet.
    bindings: the targets of those engines that are bound, and to what: a provider without any of its own is not taken.
    Raises InputError for an unknown or unbuilt target, TargetError with what is missing on this machine.
    """
    names, providers = targets(), [backend.provider for backend in BACKENDS]
    usable = [name for name in names if built is None or name in built]
    if target != "auto" and target not in names:
        raise InputError(f"target {target!r}: expected auto or one of {', '.join(names)}")
    if provider is not None and provider not in providers:
        raise InputError(f"provider {provider!r}: expected one of {', '.join(providers)}")
    wanted = usable if target == "auto" else [name for name in usable if name == target]
    if built is not None and not built:
        raise InputError(
            f"target {target!r}: the artifact holds no engines; finish it with pipeline.build on the target's machine"
        )
    if not wanted:
        raise InputError(
            f"target {target!r}: the artifact holds engines for {', '.join(sorted(set(built or ())))}; "
            f"build it with --target {target}"
        )
    reasons = []
    for backend in BACKENDS:
        if backend.target in wanted and provider in (None, backend.provider):
            reason = _without_engines(backend, bindings) or backend.available()
            reason = reason or _unfit(backend, () if built is None else built[backend.target])
            if reason is None:
                return backend
            reasons.append(f"{backend.target} through {backend.provider}: {reason}")
    raise TargetError("no engine can run on this machine:\n" + "\n".join(f"  - {reason}" for reason in reasons))


def choose_builder(target: str, precision: str = "fp32", provider: str | None = None) -> Backend:
    """The preferred backend that can compile for a target here, through a provider where one is named.

    Raises TargetError with what is missing.
    """
    reasons, has_kit = [], False
    for backend in BACKENDS:
        if backend.target == target and provider in (None, backend.provider):
            has_kit = backend.has_kit
            reason = backend.missing_to_build() or backend.unfit(precision)
            if reason is None:
                return backend
            reasons.append(reason)
    kit = ". --export-only writes everything that a machine which can needs" if has_kit else ""
    raise TargetError(f"target {target!r}: this machine cannot build for it: {'; '.join(reasons)}{kit}")


def _without_engines(backend: Backend, bindings: Collection[tuple[str, Binding]]) -> str | None:
    """Why a backend has nothing to run among bound engines, or None."""
    of_target = [binding for target, binding in bindings if target == backend.target]
    if of_target and not any(map(backend.is_for, of_target)):
        return "the artifact holds no engines for it"
    return None


def _unfit(backend: Backend, precisions: Collection[str]) -> str | None:
    """Why a backend is not to run engines in these precisions here, or None."""
    return next(filter(None, map(backend.unfit, sorted(precisions))), None)


def records_for(manifest: Manifest, backend: Backend) -> list[EngineRecord]:
    """The engines of a manifest that a backend runs on this machine, for one machine if there are several.

    Engines for exactly this GPU come before those that are compatible with more. Raises TargetError, with the command
    that adds the missing ones, when none fits.
    """
    records = [record for record in manifest.engines if record.target == backend.target]
    bindings = {record.binding.machine: record.binding for record in records if record.binding is not None}
    if not bindings:
        return records
    problems = {machine: backend.mismatch(binding) for machine, binding in bindings.items()}
    fitting = [machine for machine, problem in problems.items() if problem is None]
    if not fitting:
        listed = "\n".join(f"  - {problem}" for problem in problems.values())
        command = shlex.join(["python", "-m", "pipeline.build", *manifest.build_arguments])
        raise TargetError(
            f"target {backend.target!r}: none of the artifact's engines fits this machine\n{listed}\n"
            f"add engines for it with: {command}"
        )
    machine = min(fitting, key=lambda machine: bindings[machine].compatibility != "none")
    return [record for record in records if record.binding is not None and record.binding.machine == machine]
