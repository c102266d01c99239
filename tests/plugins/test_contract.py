"""The contracts say what the code does: names, limits, types, defaults, golden cases."""

from __future__ import annotations

import ctypes
import inspect
import re
from pathlib import Path

import pytest
import torch
import yaml

from engines.stages import DOMAIN, OPERATOR
from plugins import library
from plugins.regroup import binding
from plugins.token_compact.binding import Problem
from plugins.token_compact.operator import token_compact
from tests.plugins.make_token_compact_cases import cases

from .models import INPUTS, OUTPUTS
from .registry_probe import CONTRACT

PLUGINS = Path(library.__file__).parent
REGROUP = yaml.safe_load((PLUGINS / "regroup" / "contract.yaml").read_text(encoding="utf-8"))
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int32": torch.int32}


def constant(path: str, name: str) -> int:
    """A constant of a C++ file."""
    (value,) = re.findall(rf"\b{name} = (-?\d+)\b", (PLUGINS / path).read_text(encoding="utf-8"))
    return int(value)


def test_identity() -> None:
    contract = (CONTRACT["name"], CONTRACT["namespace"], CONTRACT["version"])
    assert contract == (library.NAME, library.NAMESPACE, library.VERSION)
    assert contract[:2] == (OPERATOR, DOMAIN)
    source = (PLUGINS / "token_compact" / "plugin.cpp").read_text(encoding="utf-8")
    assert re.findall(r'constexpr char const\* k(?:Name|Namespace|Version) = "(.*)"', source) == [
        CONTRACT["name"],
        CONTRACT["version"],
        CONTRACT["namespace"],
    ]


def test_limits_are_those_of_the_kernel() -> None:
    longest = constant("token_compact/operator.h", "kMaxLength")
    assert CONTRACT["dimensions"]["S"]["max"] == longest == CONTRACT["attributes"]["capacity"]["max"]
    assert REGROUP["samples_per_launch"] == constant("regroup/kernel.cu", "kSourcesPerLaunch")


def test_abi_version_and_cleared_position_are_decided_once() -> None:
    assert REGROUP["abi_version"] == library.ABI_VERSION == constant("exports.cpp", "kAbiVersion")
    header = constant("regroup/operator.h", "SKIMRT_NO_POSITION")
    assert REGROUP["cleared"]["position"] == header == binding.NO_POSITION
    assert (ctypes.sizeof(binding.Source), ctypes.sizeof(binding.Target)) == (32, 40)


def test_the_binding_s_structure_is_the_header_s() -> None:
    header = (PLUGINS / "token_compact" / "operator.h").read_text(encoding="utf-8")
    (body,) = re.findall(r"struct TokenCompactProblem\n\{\n(.*?)\n\};", header, re.DOTALL)
    declared = re.findall(r"^ *(\w+)( const)?(\*?) (\w+);", body, re.MULTILINE)
    types = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "float": ctypes.c_float, "bool": ctypes.c_bool}
    snake = {name: re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name) for *_, name in declared}
    fields = [(snake[name], ctypes.c_void_p if pointer else types[kind]) for kind, _, pointer, name in declared]
    assert list(Problem._fields_) == fields and len(fields) == 14


def test_names_are_those_of_the_graph() -> None:
    assert tuple(tensor["name"] for tensor in CONTRACT["inputs"]) == INPUTS
    assert tuple(tensor["name"] for tensor in CONTRACT["outputs"]) == OUTPUTS
    assert list(inspect.signature(token_compact._init_fn).parameters) == [
        *INPUTS,
        *CONTRACT["attributes"],
    ]


@pytest.mark.parametrize("hidden_type", CONTRACT["inputs"][0]["types"])
@pytest.mark.parametrize("capacity", [0, 5])
def test_shapes_and_types_are_those_of_the_operator(hidden_type: str, capacity: int) -> None:
    sizes = {"B": 2, "S": 7, "D": 3, "C": capacity or 7}

    def sized(tensor: dict) -> tuple[int, ...]:
        return tuple(sizes[name] for name in tensor["shape"])

    with torch._subclasses.FakeTensorMode():
        inputs = [
            torch.empty(sized(tensor), dtype=TYPES[hidden_type if tensor["name"] == "hidden" else tensor["types"][0]])
            for tensor in CONTRACT["inputs"]
        ]
        outputs = torch.ops.skimrt.token_compact(*inputs, 0.5, capacity, True)
    for tensor, output in zip(CONTRACT["outputs"], outputs, strict=True):
        name = tensor["types"][0]
        assert tuple(output.shape) == sized(tensor)
        assert output.dtype == TYPES[hidden_type if name == "as hidden" else name]


def test_golden_cases_are_within_the_contract() -> None:
    attributes = CONTRACT["attributes"]
    found = cases()
    assert (PLUGINS / "token_compact" / CONTRACT["golden_cases"]).is_file()
    for case in found:
        for name, spec in attributes.items():
            assert spec["min"] <= getattr(case, name) <= spec["max"]
    # Every value that an attribute can take in kind: given and default capacity, both protections.
    assert {case.protect_first for case in found} == {0, 1}
    assert any(case.capacity == 0 for case in found) and any(case.capacity > 0 for case in found)


def test_bytes_moved_ratio_is_the_one_that_is_checked() -> None:
    source = (PLUGINS / "testing" / "token_compact_bytes.cpp").read_text(encoding="utf-8")
    assert f"CHECK(ratio <= {CONTRACT['bytes_moved_ratio']['max']});" in source
