"""The library in real plugin registries: TensorRT-RTX 1.7 and TensorRT lean 11.4."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import require_package
from .registry_probe import ATTRIBUTES, BAD

PACKAGES = {"tensorrt_rtx": "tensorrt-rtx-cu13", "tensorrt_lean_bindings": "tensorrt-lean-cu13-bindings"}


@pytest.fixture(scope="module", params=PACKAGES)
def found(request: pytest.FixtureRequest, plugin_library: Path, tmp_path_factory) -> dict:
    """What registry_probe.py saw, and the messages that it caused."""
    require_package(request.param, PACKAGES[request.param])
    folder = tmp_path_factory.mktemp("other")
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.plugins.registry_probe",
            request.param,
            str(plugin_library),
            str(folder),
        ],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return {
        **json.loads(result.stdout.splitlines()[-1]),
        "library": plugin_library,
        "messages": result.stderr,
    }


def test_the_creator_is_registered_once(found: dict) -> None:
    assert found["registered"] == 1 and found["can_be_got"]


def test_advertises_the_attributes_of_the_contract(found: dict) -> None:
    assert found["field_names"] == {name: spec["type"].upper() for name, spec in ATTRIBUTES.items()}


@pytest.mark.parametrize("phase", ["build", "runtime"])
def test_good_fields_make_a_plugin(found: dict, phase: str) -> None:
    assert {"CORE", "RUNTIME"} <= set(found[f"good_at_{phase}"])


def test_defaults_hold_at_build_time_only(found: dict) -> None:
    assert found["threshold_alone_at_build"] and not found["threshold_alone_at_runtime"]


def test_the_edges_of_the_contract_are_accepted(found: dict) -> None:
    assert found["refused_edges"] == []


def test_every_bad_field_is_refused(found: dict) -> None:
    """Fault 20; ctest's token_compact.plugin and token_compact.plugin_fuzz do the same without a registry."""
    assert found["accepted_bad"] == []
    assert found["messages"].count("skimrt::TokenCompact: ") >= len(BAD)


def test_loading_twice_changes_nothing(found: dict) -> None:
    assert found["second_load"] == "TokenCompact" and not found["second_registration"]


def test_a_second_library_of_that_name_is_refused(found: dict) -> None:
    """Fault 19."""
    assert f"found it registered from {found['library']}. Load only one." in found["other_library"]
