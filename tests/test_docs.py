"""The documents: short lines, links that lead somewhere, no diary, and drawings that show the code as it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_architecture import FLOORS

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 120
PAGES = [
    *ROOT.glob("*.md"),
    *(
        page
        for top in (".github", "benchmarks", "demo", "docs", "plugins", "tests")
        for page in (ROOT / top).rglob("*.md")
    ),
]
"""Every Markdown file of the repository."""
ELSEWHERE = ROOT / "tests" / "golden" / "README.md"
"""Cites commits of the papers' own repositories."""
COMMIT = re.compile(r"\b(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{7,40}\b")
DIARY = re.compile(r"\b(today|yesterday|tomorrow|(this|last) (week|session|morning)|at the moment|TODO|FIXME)\b", re.I)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def named(page: Path) -> str:
    """The page's path as pytest shows it."""
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """The page without what a script has written into it."""
    return re.sub(r"<!-- [\w ]+ table: begin.*?table: end -->", "", page.read_text("utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives the page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_are_short(page: Path) -> None:
    lines = enumerate(prose(page).splitlines(), 1)
    long = [number for number, line in lines if len(line) > WIDTH and not line.startswith("|")]
    assert not long, f"longer than {WIDTH} columns: lines {long}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_is_a_diary(page: Path) -> None:
    text = prose(page)
    assert not DIARY.search(text)
    assert page == ELSEWHERE or not COMMIT.search(text)


def test_the_index_lists_every_document() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / link).resolve() for link in LINK.findall(index.read_text("utf-8"))}
    documents = {path for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".py")} - {index}
    assert documents <= listed
    assert {page for page in PAGES if page.parent in (ROOT, ROOT / "tests")} <= listed


def test_the_architecture_shows_the_floors() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    drawn = text.split("<!-- floors: begin", 1)[1].split("```")[1].strip().splitlines()
    assert [
        re.split(r"  +", line, maxsplit=len(floor))[:-1] for line, floor in zip(drawn, FLOORS, strict=True)
    ] == FLOORS


def test_the_readme_shows_every_folder() -> None:
    tree = (ROOT / "README.md").read_text("utf-8").split("## The tree", 1)[1].split("```")[1]
    shown = set(re.findall(r"^ *([\w]+)/ ", tree, re.MULTILINE))
    rooms = {room.rpartition(".")[2] for floor in FLOORS for room in floor} - {"int8"}
    assert shown == rooms | {"demo", "docs", "tests"}


def test_the_faults_name_tests_that_exist() -> None:
    text = (ROOT / "tests" / "FAULTS.md").read_text("utf-8")
    cited = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert cited
    for file, name in cited:
        tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"
