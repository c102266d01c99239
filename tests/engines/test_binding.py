"""Fault 21: an engine goes to the machines that it was built for, and nowhere else."""

from __future__ import annotations

import pytest

from engines.binding import Binding, Gpu

HERE = Gpu(name="NVIDIA H100 80GB HBM3", compute_capability="9.0", cuda="13.0", driver="580.65.06")
DIGEST = "a" * 64


def bound(**changes: object) -> Binding:
    """An engine that was built on HERE."""
    fields = {
        "library": "tensorrt",
        "version": "11.4.0.106",
        "compute_capabilities": ("9.0",),
        "gpu": HERE.name,
        "cuda": HERE.cuda,
        "driver": HERE.driver,
    }
    return Binding(**{**fields, **changes})


def test_an_engine_runs_where_it_was_built() -> None:
    assert bound().mismatch("11.4.0.106", HERE, None) is None
    assert bound(plugin=DIGEST).mismatch("11.4.0.106", HERE, DIGEST) is None


@pytest.mark.parametrize(
    ("binding", "gpu", "problem"),
    [
        (bound(version="11.1.0.9"), HERE, "built by tensorrt 11.1.0.9, here is 11.4.0.106"),
        (
            bound(gpu="NVIDIA A100-SXM4-80GB", compute_capabilities=("8.0",)),
            HERE,
            "built for NVIDIA A100-SXM4-80GB (compute capability 8.0), here is NVIDIA H100 80GB HBM3 (9.0)",
        ),
        (bound(gpu="NVIDIA H200"), HERE, "built for NVIDIA H200 (compute capability 9.0), here is NVIDIA H100"),
        (bound(gpu="NVIDIA H200", compatibility="same-compute-capability"), HERE, None),
        (bound(gpu="NVIDIA A100", compute_capabilities=("8.0",), compatibility="ampere-plus"), HERE, None),
        (
            bound(compatibility="ampere-plus"),
            Gpu("NVIDIA T4", "7.5", "13.0", None),
            "built for compute capability 8.0 and newer, here is NVIDIA T4 (7.5)",
        ),
        (
            bound(gpu=None, driver=None, compute_capabilities=("8.9", "12.0")),
            HERE,
            "built for compute capability 8.9, 12.0, here is NVIDIA H100 80GB HBM3 (9.0)",
        ),
        (bound(driver="590.1"), HERE, "built with driver 590.1, here is the older 580.65.06"),
        (bound(driver="570.200"), HERE, None),
        (bound(driver="590.1"), Gpu(HERE.name, "9.0", "13.0", None), None),
        (bound(plugin=DIGEST), HERE, "built with the plugin library of digest aaaaaaaaaaaa…, here is none"),
    ],
)
def test_what_does_not_fit_is_said(binding: Binding, gpu: Gpu, problem: str | None) -> None:
    found = binding.mismatch("11.4.0.106", gpu, None)
    assert found is None if problem is None else problem in str(found)


def test_a_library_beside_the_plugin_is_bound_as_it_is() -> None:
    """Fault 18: it is loaded into the same process."""
    both = bound(plugin=DIGEST, companion="c" * 64)
    assert both.mismatch("11.4.0.106", HERE, DIGEST, "c" * 64) is None
    for found, named in ((None, "none"), ("b" * 64, "one of digest bbbbbbbbbbbb…")):
        problem = f"built with the library beside the plugin of digest cccccccccccc…, here is {named}"
        assert both.mismatch("11.4.0.106", HERE, DIGEST, found) == problem


def test_another_plugin_library_does_not_fit() -> None:
    assert "here is one of digest bbbbbbbbbbbb…" in str(bound(plugin=DIGEST).mismatch("11.4.0.106", HERE, "b" * 64))


def test_the_place_tells_machines_apart_and_nothing_else() -> None:
    assert bound().machine == "11.4.0.106-sm90-nvidia-h100-80gb-hbm3"
    assert bound(compatibility="ampere-plus").machine == "11.4.0.106-sm90-ampere-plus"
    ahead = Binding(library="tensorrt_rtx", version="1.7.1.116", compute_capabilities=("8.9", "12.0"), plugin=DIGEST)
    assert ahead.machine == "1.7.1.116-sm89-sm120"
    assert bound(driver="590.1", plugin=DIGEST).machine == bound().machine
