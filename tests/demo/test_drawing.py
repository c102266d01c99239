"""The README's drawing shows what the shipped model keeps."""

from __future__ import annotations

from docs.draw_tokens import PICTURE, drawing


def test_the_drawing_is_what_the_shipped_model_keeps() -> None:
    assert drawing() == PICTURE.read_text("utf-8")
