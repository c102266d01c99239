"""The files of TensorRT-RTX's engines: compressed where we wrote them, taken as they are where the library did."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from engines.backends.tensorrt_rtx import unpacked
from engines.errors import InputError

PLAN = b"vtrt" + bytes(range(256)) * 64
FILE = Path("stage_0.plan")


def content(of: bytes) -> np.ndarray:
    return np.frombuffer(of, np.uint8)


def test_a_plan_comes_out_as_it_went_in() -> None:
    packed = gzip.compress(PLAN, compresslevel=1, mtime=0)
    assert len(packed) < len(PLAN) / 8
    assert unpacked(FILE, content(packed)).tobytes() == unpacked(FILE, content(PLAN)).tobytes() == PLAN


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: packed[:40] + b"\0" + packed[41:]])
def test_a_damaged_file_is_refused(damage) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=r"stage_0\.plan: expected a whole gzip file"):
        unpacked(FILE, content(damage(gzip.compress(PLAN))))
