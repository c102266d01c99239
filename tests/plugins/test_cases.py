"""One file of golden cases, four implementations: PyTorch, ONNX Runtime, C++ reference, host-run kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import plugins.token_compact.operator  # noqa: F401 (registers torch.ops.skimrt)
from tests.plugins import make_regroup_cases as regroup_cases
from tests.plugins import make_token_compact_cases as token_compact_cases

from . import native
from .golden import GoldenCase, read_cases
from .models import token_compact_model, token_compact_node

CASES = read_cases()


def by_torch(case: GoldenCase, hidden: np.ndarray) -> native.Outputs:
    outputs = torch.ops.skimrt.token_compact(
        torch.from_numpy(hidden),
        torch.from_numpy(case.score),
        torch.from_numpy(case.alive),
        torch.from_numpy(case.position),
        case.threshold,
        case.capacity,
        bool(case.protect_first),
    )
    return tuple(output.numpy() for output in outputs)


def by_onnxruntime(case: GoldenCase, hidden: np.ndarray) -> native.Outputs:
    node = token_compact_node(case.threshold, case.capacity, case.protect_first)
    element = {"float32": 1, "float16": 10}[hidden.dtype.name]
    model = token_compact_model(node, element, ("B", "S", case.width))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {"input": hidden, "score": case.score, "alive": case.alive, "position": case.position}
    return tuple(session.run(["output", "packed_alive", "packed_position", "count"], inputs))


def by_native(implementation: str) -> Callable[[GoldenCase, np.ndarray], native.Outputs]:
    def run(case: GoldenCase, hidden: np.ndarray) -> native.Outputs:
        arguments = (
            case.score,
            case.alive,
            case.position,
            case.threshold,
            case.capacity,
            bool(case.protect_first),
        )
        return native.token_compact(implementation, hidden, *arguments)

    return run


IMPLEMENTATIONS = {
    "torch": by_torch,
    "onnxruntime": by_onnxruntime,
    "reference": by_native("reference"),
    "kernel": by_native("kernel"),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_golden_case(name: str, case: GoldenCase, dtype: str, request: pytest.FixtureRequest) -> None:
    if name in ("reference", "kernel"):
        request.getfixturevalue("host_library")
    hidden = case.hidden(np.dtype(dtype))
    packed, packed_alive, packed_position, count = IMPLEMENTATIONS[name](case, hidden)
    np.testing.assert_array_equal(packed_alive, case.packed_alive)
    np.testing.assert_array_equal(packed_position, case.packed_position)
    np.testing.assert_array_equal(count, case.count)
    np.testing.assert_array_equal(packed, np.take_along_axis(hidden, case.source[:, :, None], axis=1))
    assert packed.dtype == hidden.dtype
    assert {packed_alive.dtype, packed_position.dtype, count.dtype} == {np.dtype(np.int32)}


@pytest.mark.parametrize("script", [token_compact_cases, regroup_cases], ids=["token_compact", "regroup"])
def test_case_file_is_what_its_script_writes(script) -> None:
    assert script.PATH.read_text(encoding="utf-8") == script.text()


@st.composite
def calls(draw: st.DrawFn) -> tuple:
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 70))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = st.sampled_from([0.0, 0.25, 0.5, 0.75, float("nan"), float("inf")])
    score = np.array(draw(st.lists(scores, min_size=batch * length, max_size=batch * length)), np.float32)
    return (
        generator.standard_normal((batch, length, draw(st.integers(1, 40)))).astype(np.float16),
        score.reshape(batch, length),
        generator.integers(0, 2, (batch, length), np.int32),
        generator.integers(0, 512, (batch, length), np.int32),
        draw(st.sampled_from([0.0, 0.5, 2.0])),
        draw(st.integers(0, length)),
        draw(st.booleans()),
    )


@given(calls())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_kernel_agrees_with_torch(host_library, call: tuple) -> None:
    hidden, score, alive, position, *attributes = call
    tensors = [torch.from_numpy(array) for array in (hidden, score, alive, position)]
    expected = torch.ops.skimrt.token_compact(*tensors, *attributes)
    for want, found in zip(expected, native.token_compact("kernel", *call), strict=True):
        np.testing.assert_array_equal(found, want.numpy())


@pytest.mark.parametrize(("length", "capacity"), [(4097, 0), (8, 9)])
@pytest.mark.parametrize("implementation", ["reference", "kernel"])
def test_refuses_what_is_out_of_range(host_library, implementation: str, length: int, capacity: int) -> None:
    score, alive = np.zeros((1, length), np.float32), np.ones((1, length), np.int32)
    hidden = np.zeros((1, length, 2), np.float32)
    with pytest.raises(ValueError, match="refused"):
        native.token_compact(implementation, hidden, score, alive, alive, 0.5, capacity, True)
