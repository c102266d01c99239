"""Turns an artifact's plan into stages of the model, and these into graphs or a traced target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engines.backends.base import program_file
from engines.errors import InputError
from engines.manifest import Manifest
from engines.plan import Unit, graph_file, unit_name
from engines.stages import Step
from pipeline.builder.target import BuildTarget
from pipeline.builder.traced_backend import TracedBackend
from pipeline.builder.work import Work
from pipeline.gates.expected import Expected
from pipeline.graph.stages import HeadStage, Stage, StageSpec, cut_stages, decision_layers
from pipeline.model.transformer import PrunedTransformer


def specs_of(model: PrunedTransformer, manifest: Manifest) -> list[StageSpec]:
    """Returns the stages of an artifact's plan. Raises InputError if they are not stages of this model."""
    ends = {stage.steps[-1] for stage in manifest.plan.stages[:-1] if stage.steps}
    specs = cut_stages(model, [layer for layer in decision_layers(model) if Step("decide", layer).name in ends])
    if [spec.step_names for spec in specs] != [stage.steps for stage in manifest.plan.stages]:
        raise InputError(
            "the artifact's stages are not those of this model; pass the checkpoint that it was built from"
        )
    return specs


def export_graphs(work: Work, expected: Expected) -> dict[Unit, str]:
    """Writes the missing stage graphs. Returns their paths in the artifact, by unit."""
    (work.root / "stages").mkdir(exist_ok=True)
    stages = _stages(expected.model, expected.specs)
    graphs = {unit: graph_file(unit) for unit in stages}
    task = work.progress.add_task("stage graphs (ONNX)", total=len(stages))
    for unit, stage in stages.items():
        lacks_program = work.start.target.backend.reads_program and not program_file(work.root / graphs[unit]).is_file()
        if lacks_program or not work.publisher.done(graphs[unit]):
            work.export(stage, expected.model.config, work.root / graphs[unit], expected.precision)
            work.publisher.mark(graphs[unit])
        work.progress.advance(task)
    return graphs


def drop_programs(work: Work) -> None:
    """Deletes the programs beside the graphs, once everything is compiled: they hold the weights once more."""
    for path in (work.root / "stages").glob("*.onnx"):
        program_file(path).unlink(missing_ok=True)


def traced(target: BuildTarget, expected: Expected) -> BuildTarget:
    """Returns the same target, with engines that are compiled from the traced stages."""
    stages = {unit_name(unit): stage for unit, stage in _stages(expected.model, expected.specs).items()}
    backend = TracedBackend(expected.model.config, stages, expected.precision, target.options)
    return replace(target, backend=backend)


def _stages(model: PrunedTransformer, specs: Sequence[StageSpec]) -> dict[Unit, Stage | HeadStage]:
    """Returns the modules of a plan's units, with the token-level head if there is one."""
    stages: dict[Unit, Stage | HeadStage] = {spec.index: Stage(model, spec) for spec in specs}
    if model.config.head.token_level:
        stages["head"] = HeadStage(model)
    return stages
