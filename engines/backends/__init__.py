"""The registry of backends: what runs a target, and which one is taken when nothing is asked for."""

from __future__ import annotations

from collections.abc import Iterable

from engines.backends.base import Backend, Engine
from engines.backends.onnxruntime import OnnxRuntimeBackend
from engines.backends.openvino import OpenVinoBackend
from engines.errors import InputError, TargetError

BACKENDS: tuple[Backend, ...] = (OpenVinoBackend(), OnnxRuntimeBackend())
"""In order of preference: of the backends that can run here, the first is taken."""

__all__ = ["BACKENDS", "Backend", "Engine", "choose_backend", "targets"]


def targets() -> list[str]:
    """The targets that have a backend, preferred first."""
    return list(dict.fromkeys(backend.target for backend in BACKENDS))


def choose_backend(target: str = "auto", provider: str | None = None, built: Iterable[str] | None = None) -> Backend:
    """The preferred backend that this machine can run.

    target:   "auto" or one of `targets()`.
    provider: restricts the choice to one library, such as "openvino".
    built:    the targets that an artifact holds engines for; None when nothing is built yet.
    Raises InputError for an unknown or unbuilt target, TargetError with what is missing on this machine.
    """
    names, providers = targets(), [backend.provider for backend in BACKENDS]
    built = None if built is None else set(built)
    held = [name for name in names if built is None or name in built]
    if target != "auto" and target not in names:
        raise InputError(f"target {target!r}: expected auto or one of {', '.join(names)}")
    if provider is not None and provider not in providers:
        raise InputError(f"provider {provider!r}: expected one of {', '.join(providers)}")
    wanted = held if target == "auto" else [name for name in held if name == target]
    if not wanted:
        raise InputError(
            f"target {target!r}: the artifact holds engines for {', '.join(sorted(set(built or ())))}; "
            f"build it with --target {target}"
        )
    reasons = []
    for backend in BACKENDS:
        if backend.target in wanted and provider in (None, backend.provider):
            reason = backend.available()
            if reason is None:
                return backend
            reasons.append(f"{backend.target} through {backend.provider}: {reason}")
    raise TargetError("no engine can run on this machine:\n" + "\n".join(f"  - {reason}" for reason in reasons))
