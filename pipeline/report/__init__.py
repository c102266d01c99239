"""The HTML report: one self-contained file for a demo's record or for an artifact.

It imports no page itself: `python -m pipeline.report` comes by here before it can say which package is missing.
"""
