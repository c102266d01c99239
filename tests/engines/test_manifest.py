"""Faults 23 and 31: whatever is wrong in a manifest is named, all of it at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engines.artifact import Artifact
from tests.engines.damaged import edit, refusal


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 1', b"\xff\xfe", "[" * 100_000])
def test_the_manifest_is_not_json(copy: Path, content: str | bytes) -> None:
    (copy / "manifest.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert "expected JSON" in refusal(copy)


@pytest.mark.parametrize("content", ["[]", "1", "{}", '{"schema_version": "1"}', '{"schema_version": true}'])
def test_the_manifest_is_not_ours(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_text(content)
    assert "expected schema_version 2" in refusal(copy)


def test_a_newer_schema_is_recognised_whatever_else_it_holds(copy: Path) -> None:
    edit(copy, lambda m: m.update(schema_version=3, brand_new={"fields": 1}))
    message = refusal(copy)
    assert "made by a newer version of SkimRT: schema 3, this one reads up to 2" in message


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (
            ["--checkpoint", "runs/my ltp", "--max-engines", "9", "--plan", "fused", "--out", "a"],
            "--checkpoint 'runs/my ltp' --max-profiles 9 --out a --force",
        ),
        ([], "--out {} --force"),
        ("damaged", "--out {} --force"),
    ],
)
def test_an_older_schema_is_refused_with_the_command_that_rebuilds_it(
    copy: Path, arguments: object, command: str
) -> None:
    edit(copy, lambda m: m.update(schema_version=1, build_arguments=arguments))
    expected = f"python -m pipeline.build {command.format(copy)}"
    assert refusal(copy).endswith(
        f"made by an older version of SkimRT: schema 1, this one reads 2; build the artifact again: {expected}"
    )


def test_every_wrong_field_is_listed(copy: Path) -> None:
    def change(manifest: dict) -> None:
        manifest["max_length"] = -1
        manifest["colour"] = "blue"
        manifest["head"]["kind"] = "translation"
        del manifest["encoder"]["vocab_size"]

    edit(copy, change)
    message = refusal(copy)
    for part in ("4 problem(s)", "max_length", "colour", "head.kind", "encoder.vocab_size"):
        assert part in message


def test_a_duplicate_bucket_and_a_duplicate_engine(copy: Path) -> None:
    def change(manifest: dict) -> None:
        manifest["plan"]["buckets"].append({"batch": 1, "length": 4})
        manifest["engines"].append(manifest["engines"][0])

    edit(copy, change)
    message = refusal(copy)
    assert "1x4 is listed twice" in message and "cpu has stage 0 1x4 twice" in message


def test_times_and_buckets_must_fit(copy: Path) -> None:
    def change(manifest: dict) -> None:
        manifest["plan"]["stages"][0]["milliseconds"] = [1.0]

    edit(copy, change)
    assert "plan.stages.0.milliseconds: expected none or " in refusal(copy)


def test_engines_and_plan_must_fit(copy: Path) -> None:
    def change(manifest: dict) -> None:
        del manifest["engines"][0]
        manifest["engines"].append({**manifest["engines"][0], "stage": 9})
        manifest["max_length"] = 25
        manifest["plan"]["head_graph"] = "stages/stage_0.onnx"
        del manifest["files"]["stages/stage_1.onnx"]

    edit(copy, change)
    message = refusal(copy)
    for part in (
        "lacks stage 0 1x4",
        "stage 9 is not in the plan",
        "the longest is 24, expected at least max_length 25",
        "a classification head has none",
        "stages/stage_1.onnx is used but has no digest",
    ):
        assert part in message


def test_a_bucket_in_two_precisions(copy: Path) -> None:
    edit(copy, lambda m: m["engines"].append({**m["engines"][1], "precision": "int8"}))
    assert "cpu has stage 1 3x8 twice" in refusal(copy)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m["encoder"].update(layers=10**5), "encoder.layers: "),
        (lambda m: m["encoder"].update(vocab_size=10**12), "encoder.vocab_size: "),
        (lambda m: m.update(gates=[{"name": "g", "status": "PASSED"}] * 10**5), "gates: "),
        (lambda m: m["head"].update(labels=["a"] * 10**6), "head.labels: "),
        (lambda m: m["plan"]["buckets"].append({"batch": 10**9, "length": 32}), "expected a bucket of at most"),
        (lambda m: m["plan"]["stages"][0].update(graph="\ud800"), "plan.stages.0.graph: "),
        (lambda m: m["head"].update(labels=["\ud800", "a"]), "head.labels: label"),
    ],
)
def test_sizes_and_texts_that_no_build_writes_are_refused(copy: Path, change, problem: str) -> None:
    """Fault 31."""
    edit(copy, change)
    assert problem in refusal(copy)


def test_a_manifest_without_end_is_not_read(copy: Path) -> None:
    os.truncate(copy / "manifest.json", 2**40)
    assert "expected at most 67108864 bytes, found 1099511627776" in refusal(copy)


def test_an_artifact_from_before_there_were_seals_opens(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
    del manifest["seal"]
    (copy / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert Artifact.open(copy).manifest.max_length == 24
    manifest["seal"] = "0" * 64  # not where it is written
    (copy / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert "found no seal in front; the artifact is damaged" in refusal(copy)
