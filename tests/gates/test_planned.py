"""What the library planned: as many attentions and INT8 products as there can be, or the gate names the engines."""

from __future__ import annotations

import pytest

from pipeline.gates import attention_gate, int8_products_gate

FOUND = {"engines/a.plan": (3, 3), "engines/b.plan": (2, 2), "engines/c.plan": (0, 0)}


def test_everything_planned_as_it_can_be_passes_and_is_counted() -> None:
    gate = attention_gate("fused attention", "fp16", FOUND, 64)
    assert gate.status == "PASSED" and gate.figures == {"profiles": 3, "fusible": 5, "fused": 5}
    gate = int8_products_gate("INT8 products", FOUND)
    assert gate.status == "PASSED" and gate.figures == {"profiles": 3, "linear_layers": 5, "in_int8": 5}


def test_what_is_missing_in_one_engine_fails_and_names_it() -> None:
    gate = int8_products_gate("INT8 products", {**FOUND, "engines/b.plan": (2, 1)})
    assert (gate.status, gate.reason) == ("FAILED", "engines/b.plan: 1 of 2")
    many = {f"{n}.plan": (1, 0) for n in range(7)}
    assert attention_gate("fused attention", "bf16", many, 64).reason.endswith("4.plan: 0 of 1; and 2 more")


@pytest.mark.parametrize(
    ("precision", "found", "reason"),
    [("fp32", FOUND, "no library fuses attention in fp32"), ("fp16", {"a": (0, 0)}, "every attention feeds a score")],
)
def test_where_nothing_can_be_fused_nothing_has_passed(precision: str, found: dict, reason: str) -> None:
    gate = attention_gate("fused attention", precision, found, 64)
    assert (gate.status, gate.reason) == ("SKIPPED", reason)


def test_without_a_quantised_layer_nothing_has_passed() -> None:
    assert int8_products_gate("INT8 products", {"a": (0, 0)}).status == "SKIPPED"


@pytest.mark.parametrize(("size", "status"), [(4, "SKIPPED"), (8, "SKIPPED"), (12, "FAILED"), (64, "FAILED")])
def test_heads_of_a_few_columns_are_fused_nowhere(size: int, status: str) -> None:
    gate = attention_gate("fused attention", "fp16", {"a.plan 1x32": (2, 0)}, size)
    assert gate.status == status and ("heads of" in gate.reason) == (status == "SKIPPED")
