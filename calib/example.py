"""An example: a text or a pair of texts, with its label."""

from __future__ import annotations

from dataclasses import dataclass

from calib.targets import Target
from engines.tokenization import Text, text_of


@dataclass(frozen=True)
class Example:
    """A text or a pair of texts with its label: a class name, a number as text for regression, or "" for none.

    Where the label is more than one name it is in `target`, and `label` is empty.
    """

    text: str
    label: str
    text_b: str | None = None
    source: str = ""
    target: Target | None = None

    @property
    def content(self) -> Text:
        """What a tokenizer takes: the text, or the pair."""
        return text_of(self.text, self.text_b)
