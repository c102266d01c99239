"""The kit's way to the GPU machine: pieces fit the calls, and what is put together there is what was packed here."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu import pack
from benchmarks.gpu.call import STEPS
from benchmarks.gpu.unpack import INDEX, unpack

ROOM = 1000
ALL = {"base": 1500, "model": 700, "rtx": 2500}


@given(
    sizes=st.fixed_dictionaries({name: st.integers(1, 5 * ROOM) for name in pack.ARCHIVES}),
    left_out=st.sets(st.sampled_from(["model", "rtx"])),
    room=st.integers(200, 3 * ROOM),
)
def test_every_call_fits_and_every_step_finds_what_it_needs(sizes, left_out, room) -> None:
    sizes = {name: size for name, size in sizes.items() if name not in left_out}
    calls, there = pack.plan_calls(sizes, room), dict.fromkeys(sizes, 0)
    steps = []
    for call in calls:
        assert sum(piece.size for piece in call.pieces) <= room
        for piece in call.pieces:
            assert piece.start == there[piece.archive]  # in order, none left out
            there[piece.archive] += piece.size
        if call.step:
            steps.append(call.step)
            assert all(there[need] == sizes[need] for need in STEPS[call.step].needs)
    assert there == sizes
    assert sorted(steps) == sorted(name for name, step in STEPS.items() if not set(step.needs) & left_out)
    # Every call that carries on is full: fewer calls are not possible.
    carrying = [call for call in calls if call.pieces]
    assert len(carrying) == -(-sum(sizes.values()) // room)


def test_the_step_that_is_worth_the_most_comes_first() -> None:
    calls = pack.plan_calls({**ALL, "base": 10}, ROOM)
    assert calls[0].step == "kernels" and [call.step for call in calls if call.step] == list(STEPS)
    text = pack.describe(calls, 24 * pack.MIB, 64)
    assert "call 1: carry .gpu/1 (24 of 64 MiB with the project)\n  python3 -m benchmarks.gpu.call kernels\n" in text


def wheel(folder: Path, name: str, content: bytes) -> Path:
    """A wheel with one module."""
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Folders of calls with one archive of two wheels."""
    wheels = [wheel(tmp_path, name, f"x = {'1' * 900}\n".encode()) for name in ("one", "other")]
    files = {"base": pack.join(wheels, tmp_path / "archives" / "base.tar")}
    calls = pack.plan_calls({"base": files["base"].stat().st_size}, 4000)
    pack.write_pieces(calls, files, tmp_path / ".gpu")
    assert len(list((tmp_path / ".gpu").glob("*/base.*"))) > 2
    return tmp_path / ".gpu"


def test_pieces_come_in_any_order_and_the_whole_is_installed_once(packed: Path, tmp_path: Path) -> None:
    root, folders = tmp_path / "there", sorted(packed.iterdir(), reverse=True)
    for number, folder in enumerate(folders):
        carried = tmp_path / f"carried-{number}"
        carried.mkdir()
        folder.rename(carried / folder.name)
        (line,) = unpack(carried, root)
        whole = number == len(folders) - 1
        assert line == "  base: installed now" if whole else "the rest comes with another call" in line
    assert (root / "site" / "one.py").read_text() == (root / "site" / "other.py").read_text()
    assert unpack(tmp_path / "carried-0", root) == ["  base: installed"]


def test_a_damaged_piece_is_told(packed: Path, tmp_path: Path) -> None:
    piece = next(packed.glob("1/base.*"))
    piece.write_bytes(bytes(len(piece.read_bytes())))
    (line,) = unpack(packed, tmp_path / "there")
    assert line.startswith("  base: damaged: expected SHA-256 ") and line.endswith("; carry it again")
    assert not (tmp_path / "there" / "site").exists()
    assert unpack(tmp_path / "nothing", tmp_path / "empty") == [f"  nothing has arrived in {tmp_path}/nothing/"]


def test_every_distribution_is_pinned_and_travels_with_its_digest(packed: Path) -> None:
    for names in pack.ARCHIVES.values():
        assert all(pack.requirement_of(name).startswith(f"{name}==") for name in names)
    index = json.loads(next(packed.glob(f"*/{INDEX}")).read_bytes())
    assert set(index["base"]) == {"bytes", "sha256"}


def test_git_ignores_the_pieces() -> None:
    assert ".gpu/" in (pack.ROOT / ".gitignore").read_text("utf-8").splitlines()
