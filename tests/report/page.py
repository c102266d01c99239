"""A report as a reader sees it: parsed, and refused where it is not well formed."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

HOSTILE = "<script>alert('1')</script>&\""
VOID = {"meta", "br", "hr", "img", "link", "input", "rect", "line", "path"}


class Page(HTMLParser):
    """A parsed page: its tags, attributes and text; closing a tag that is not open is an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.labels: list[tuple[str, str]] = []  # class of the innermost element, its text
        self._classes: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
            self._classes.append(dict(attrs).get("class") or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()
        self._classes.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"] and data.strip():
            self.pieces.append(data)
            self.labels.append((self._classes[-1] if self._classes else "", " ".join(data.split())))

    @property
    def text(self) -> str:
        """What a reader sees, white space collapsed."""
        return " ".join(" ".join(self.pieces).split())

    def cells(self, heading: str) -> list[str]:
        """The figures of the table row whose heading starts so, one per cell, without their small print."""
        row = re.search(rf"<tr><th[^>]*>{re.escape(heading)}.*?</tr>", self.source, re.DOTALL)
        assert row, heading
        return re.findall(r"<td[^>]*>\s*([^<\s]+)", row[0])


def assert_self_contained(page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not [a for a in page.attributes if a[0] in ("src", "href", "srcset", "xlink:href") or a[0].startswith("on")]
    assert "url(" not in page.source and "@import" not in page.source
