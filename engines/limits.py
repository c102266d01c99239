"""The largest sizes that a file may name: checked first, so that none of them costs time or memory."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

LAYERS = 1024
LABELS = 65_536
CALL_TOKENS = 2**22
"""Rows of one call, batch times length: of 1,024 numbers each they are 16 GiB."""
MANIFEST_BYTES = 2**26
ENGINES, GATES, FILES = 100_000, 1000, 200_000
"""Entries of a manifest."""

Layers = Annotated[int, Field(gt=0, le=LAYERS)]
Width = Annotated[int, Field(gt=0, le=2**17)]
"""Of hidden states, of a feed-forward block, or a number of heads."""
Vocabulary = Annotated[int, Field(gt=0, le=2**24)]
Length = Annotated[int, Field(gt=0, le=2**20)]
"""Tokens of an input, or rows of a position table."""
