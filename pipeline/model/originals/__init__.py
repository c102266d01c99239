"""Checkpoints of the two papers' own code: read, described, and run as that code runs them."""

from pipeline.model.originals.reading import ORIGINALS, Conversion, read_original

__all__ = ["ORIGINALS", "Conversion", "read_original"]
