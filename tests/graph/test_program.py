"""Stages as programs of PyTorch, which the target torch compiles: the same at any size, whatever the head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engines.stages import POOLED, POOLED_ON
from pipeline.graph.export import example_inputs
from pipeline.graph.program import write_program
from pipeline.graph.stages import HeadStage, Stage, cut_stages, decision_layers
from pipeline.model import PrunedTransformer
from tests.graph.headed import HEADS, SEPARATOR, headed_model
from tests.graph.small import small_model

STAGES = {"embedding": (0, 1), "multi_label": (1,), "tagging": (1, "head"), "question_answering": (1,), "ranking": (0,)}
"""What each kind of head changes, of a model that decides once and is cut there."""


def stages_of(model: PrunedTransformer, kind: str) -> list[Stage | HeadStage]:
    specs = cut_stages(model, decision_layers(model))
    return [Stage(model, specs[unit]) if isinstance(unit, int) else HeadStage(model) for unit in STAGES[kind]]


QUICK = ("embedding", "ranking")
"""A mean that stages carry, and a protected segment; the others take as long again."""


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in HEADS]
)
def test_a_program_is_its_stage_at_any_size(kind: str, tmp_path: Path) -> None:
    model = headed_model(kind, layers=1)
    for number, stage in enumerate(stages_of(model, kind)):
        assert (POOLED in stage.input_names or POOLED_ON in stage.output_names) == (kind == "embedding")
        write_program(stage, model.config, tmp_path / f"{number}.onnx", "fp32")
        program = torch.export.load(tmp_path / f"{number}.pt2").module()
        for shape in ((1, 5), (3, 11)):
            inputs = list(example_inputs(stage, model.config, *shape))
            if "input_ids" in stage.input_names:
                inputs[0][:, 2] = SEPARATOR
            with torch.no_grad():
                for ours, theirs in zip(program(*inputs), _tuple(stage(*inputs)), strict=True):
                    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("operator", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compaction_is_the_operator_or_what_it_is_made_of(operator: bool, tmp_path: Path) -> None:
    model = small_model("ltp")
    stage = Stage(model, cut_stages(model, decision_layers(model))[0])
    write_program(stage, model.config, tmp_path / "stage.onnx", "bf16", operator)
    program = torch.export.load(tmp_path / "stage.pt2")
    ours = [node for node in program.graph.nodes if str(node.target).startswith("skimrt.")]
    assert len(ours) == operator
    assert all(value.dtype != torch.float32 or value.dim() == 1 for value in program.state_dict.values())


def _tuple(found: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)
