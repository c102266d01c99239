"""Exports that tests share: the graph that a trace gives, and another one as soon as anything differs."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import onnx
import pytest
import torch

from pipeline.graph.export import export_stage
from pipeline.graph.precision import reference_in
from pipeline.graph.stages import HeadStage, Stage, cut_stages
from pipeline.model import PrunedTransformer
from tests.exports import KeptExports, digest_of
from tests.graph.small import small_model

EXAMPLE = (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3))


def first_stage(model: PrunedTransformer) -> Stage:
    return Stage(model, cut_stages(model, [1])[0])


def changed(change: Callable[[PrunedTransformer], object]) -> Stage:
    """A stage of the same model with one change."""
    model = deepcopy(small_model("ltp", layers=2))
    change(model)
    return first_stage(model)


def test_the_kept_graph_is_the_traced_one_to_the_byte(
    tmp_path: Path, kept_exports: KeptExports, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model("ltp")
    stage = Stage(model, cut_stages(model, [0])[1])  # of a feed-forward alone, which is quick
    export_stage(stage, stage.model.config, tmp_path / "kept.onnx")
    traced = []

    def tracing(*arguments: object, **options: object) -> object:
        traced.append(arguments)
        return kept_exports.export(*arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", tracing)
    export_stage(stage, stage.model.config, tmp_path / "anew.onnx")
    assert traced and (tmp_path / "kept.onnx").read_bytes() == (tmp_path / "anew.onnx").read_bytes()
    onnx.checker.check_model(tmp_path / "kept.onnx")


def test_whatever_changes_a_graph_changes_the_digest() -> None:
    model = small_model("ltp", layers=2)
    plain = first_stage(model)
    stages: list[Stage | HeadStage] = [
        plain,
        Stage(model, cut_stages(model, [1])[1]),
        Stage(model, cut_stages(model, [])[0]),
        HeadStage(model),
        reference_in(plain, "fp16"),
        changed(lambda model: model.head.classifier.bias.data.flatten()[0].add_(1e-6)),
        changed(lambda model: model.pruner.constants.__setitem__(0, 0.5)),
        changed(lambda model: setattr(model.attention[0], "scale", 1.0)),
    ]
    digests = [digest_of(stage, EXAMPLE, {"opset_version": 18}) for stage in stages]
    digests.append(digest_of(plain, EXAMPLE, {"opset_version": 17}))
    digests.append(digest_of(plain, EXAMPLE[:2], {"opset_version": 18}))
    assert len(set(digests)) == len(digests)
    same = changed(lambda model: None)
    assert digest_of(same, EXAMPLE, {"opset_version": 18}) == digests[0]
