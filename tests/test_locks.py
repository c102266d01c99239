"""The locks: every package by version and digest, those of constraints.txt; and what `make lint` says of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.test_installation import EXTRAS

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)")
TORCH = ("requirements-torch.lock", "requirements-torch-cpu.lock")


def pins(file: str) -> set[tuple[str, str]]:
    """Names and versions; a version that other Pythons take is one more."""
    found = (PIN.match(line) for line in (ROOT / file).read_text("utf-8").splitlines())
    return {(normal(match[1]), match[2]) for match in found if match}


def normal(name: str) -> str:
    """A name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_has_the_versions_of_the_constraints() -> None:
    (torch,) = ((name, version) for name, version in pins("constraints.txt") if name == "torch")
    locked = pins("requirements.lock")
    # What only a Python in a browser needs has no other place.
    assert {pin for pin in locked if pin[0] != "httpx2-jsfetch"} == pins("constraints.txt") - {torch}
    assert {(name, version.partition("+")[0]) for file in TORCH for name, version in pins(file)} == {torch}


@pytest.mark.parametrize("file", ["requirements.lock", *TORCH])
def test_every_package_has_a_digest(file: str) -> None:
    packages = re.split(r"^(?=\w)", (ROOT / file).read_text("utf-8"), flags=re.MULTILINE)[1:]
    assert packages and all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", package) for package in packages)


def test_the_lock_has_all_that_the_extra_dev_names() -> None:
    wanted = [*EXTRAS["dev"], *EXTRAS["cpu"], *EXTRAS["runtime"], *EXTRAS["train"]]
    names = {normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in wanted}
    assert names - {"skimrt", "torch"} <= {name for name, _ in pins("requirements.lock")}


@pytest.mark.parametrize(
    ("says", "code", "printed"),
    [
        ("No known vulnerabilities found", 0, "audit: no known vulnerability in requirements.lock"),
        ("Found 1 known vulnerability in 1 package", 1, "Found 1 known vulnerability in 1 package"),
        ("requests.exceptions.ConnectionError: no such host", 1, "SKIPPED: audit: the database of vulnerabilities"),
        ("TypeError: a defect", 1, "TypeError: a defect"),
    ],
)
def test_what_the_audit_finds_is_said(tmp_path: Path, says: str, code: int, printed: str) -> None:
    audit = tmp_path / "pip-audit"
    audit.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    audit.chmod(0o755)
    command = ["sh", ROOT / ".ci/audit", audit, "requirements.lock"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(printed)
    assert done.returncode == (0 if printed.startswith(("SKIPPED", "audit")) else 1)
