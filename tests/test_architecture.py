"""The map of the packages: who may import whom. Every arrow goes down, and no modules import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [
    ["skimrt", "benchmarks"],
    ["pipeline"],
    ["pipeline.skim", "pipeline.serve", "pipeline.bench", "pipeline.export_triton"],
    ["pipeline.report"],
    ["pipeline.builder"],
    ["pipeline.kit"],
    ["pipeline.gates", "pipeline.planning"],
    ["pipeline.training", "calib.int8"],
    ["pipeline.graph"],
    ["pipeline.model"],
    ["calib"],
    ["engines"],
    ["plugins"],
]
"""The rooms, the highest floor first; a room imports itself and the floors below. `pipeline` itself are the verbs."""
VERBS = {f"pipeline.{room}.__main__" for room in ("bench", "export_triton", "report", "serve", "skim")}
"""Verbs that live in a room of their own."""
MOST_MODULES = 12
"""Modules directly under pipeline/, with the verbs: what is shared belongs into a room."""


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    tops = {room.partition(".")[0] for floor in FLOORS for room in floor}
    paths = [path for top in sorted(tops) for path in (ROOT / top).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def room_of(module: str) -> str:
    """The longest room's name that a module's starts with."""
    if module in VERBS:
        return "pipeline"
    rooms = [room for floor in FLOORS for room in floor if f"{module}.".startswith(f"{room}.")]
    return max(rooms, key=len)


def imported(tree: ast.AST, at_runtime: bool) -> Iterator[str]:
    """The project's modules that a module imports anywhere; at runtime: when it is itself imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif at_runtime and (isinstance(node, ast.FunctionDef) or _is_type_checking(node)):
            continue
        else:
            yield from imported(node, at_runtime)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(module: str, at_runtime: bool = False) -> set[str]:
    """What `imported` finds in a module of the project, as far as it is the project's."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    return {name for name in imported(tree, at_runtime) if name in MODULES and name != module}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module: str) -> None:
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    home = room_of(module)
    wrong = [
        name
        for name in sorted(imports_of(module))
        if (room := room_of(name)) != home and floor_of[room] <= floor_of[home]
    ]
    assert not wrong, f"{module} (in {home}) imports upwards or sideways: {', '.join(wrong)}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({module: imports_of(module, at_runtime=True) for module in MODULES}).prepare()


def test_the_verbs_are_found_at_a_glance() -> None:
    found = sorted(path.name for path in (ROOT / "pipeline").glob("*.py"))
    assert len(found) <= MOST_MODULES, found
