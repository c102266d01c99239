"""Small builds that a publisher is tried with."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.builder.publish import Publisher

BIG = "x" * 10_000


def build(out: Path, content: str, **options) -> None:
    """A build of two files, the manifest last."""
    with Publisher(out, key="k", **options) as publisher:
        (publisher.path / "engines").mkdir(exist_ok=True)
        (publisher.path / "engines" / "stage_0.onnx").write_text(content + BIG)
        (publisher.path / "manifest.json").write_text(manifest_of(content))
        publisher.publish()


def manifest_of(content: str) -> str:
    """As much of a manifest as tells that a directory is an artifact, and which files belong to it."""
    return json.dumps({"skimrt_version": content, "files": {"engines/stage_0.onnx": "0" * 64}})


def content(out: Path) -> str:
    """What is published, checked to be of one build."""
    manifest = json.loads((out / "manifest.json").read_text())["skimrt_version"]
    assert (out / "engines" / "stage_0.onnx").read_text() == manifest + BIG
    return manifest
