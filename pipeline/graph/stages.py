"""Cuts a model into stages at its decision points. A stage is a module that PyTorch runs and the exporter traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engines import stages as names
from engines.errors import InputError
from engines.plan import unit_name
from engines.stages import Step
from pipeline.model.transformer import PrunedTransformer, State
from plugins.library import NAMESPACE, VERSION
from plugins.token_compact.operator import are_carried, token_compact


@dataclass(frozen=True)
class StageSpec:
    """The steps of one stage. Each but the last stage ends with the decision where it is cut."""

    index: int
    steps: tuple[Step, ...]
    last: bool

    @property
    def name(self) -> str:
        """File stem of the stage's graph."""
        return unit_name(self.index)

    @property
    def step_names(self) -> list[str]:
        """Readable steps, such as "attend 2"."""
        return [step.name for step in self.steps]


def decision_layers(model: PrunedTransformer) -> list[int]:
    """The layers that have a decision point, in order."""
    return [step.layer for step in model.steps if step.kind == "decide"]


def cut_stages(model: PrunedTransformer, cuts: Sequence[int]) -> list[StageSpec]:
    """Returns the stages of a model cut at the decisions of these layers. Raises InputError for an impossible cut."""
    possible = decision_layers(model)
    wrong = sorted(set(cuts) - set(possible))
    if wrong:
        raise InputError(
            f"cuts {wrong}: this {model.config.pruner.method} model decides at layers {possible or 'none'}"
        )
    if model.config.head.token_level and sorted(set(cuts)) != possible:
        raise InputError(
            f"cuts {sorted(set(cuts))}: a {model.config.head.kind} head reads the state in which each token died, so "
            f"the model must be cut at every decision: {possible}"
        )
    stages: list[list[Step]] = [[]]
    for step in model.steps:
        stages[-1].append(step)
        if step.kind == "decide" and step.layer in cuts:
            stages.append([])
    return [StageSpec(i, tuple(steps), i == len(stages) - 1) for i, steps in enumerate(stages)]


class Decision(NamedTuple):
    """The input of a decision: score [B, S] in fp32, alive [B, S] before it, and its threshold."""

    score: Tensor
    alive: Tensor
    threshold: float


class Stage(nn.Module):
    """One stage of a model.

    The first takes input_ids, token_type_ids and alive, the others hidden, alive and position. A stage that ends at
    a cut returns packed, packed_alive, packed_position and count; the last returns logits (final_hidden, for a
    token-level head), final_alive and final_position. Decisions that are not cuts only mask. Where the head reads the
    mean of all tokens, the others also take `pooled`, and a cut returns it with what its stage has dropped.
    """

    def __init__(self, model: PrunedTransformer, spec: StageSpec) -> None:
        super().__init__()
        self.model, self.spec = model, spec
        self.token_level, self.pools = model.config.head.token_level, model.config.head.pools

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return self._names[0]

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return self._names[1]

    @property
    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        stages = self.spec.index + 1 if self.spec.last else self.spec.index + 2
        return names.tensor_names(self.spec.index, stages, self.token_level, self.pools)

    def forward(self, first: Tensor, second: Tensor, third: Tensor, pooled: Tensor | None = None) -> tuple[Tensor, ...]:
        """Takes `input_names`, returns `output_names`."""
        return self._run((first, second, third), pooled, lambda decision: None)

    def scored(
        self, first: Tensor, second: Tensor, third: Tensor, pooled: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], list[Decision]]:
        """Returns the outputs of `forward` and all decisions on the way, including that of the cut."""
        decisions: list[Decision] = []
        return self._run((first, second, third), pooled, decisions.append), decisions

    def _run(
        self, rows: tuple[Tensor, Tensor, Tensor], pooled: Tensor | None, see: Callable[[Decision], None]
    ) -> tuple[Tensor, ...]:
        def decide(layer: int, score: Tensor, before: State) -> State:
            see(Decision(score, before.alive, self.model.pruner.threshold(layer)))
            return self.model.decide_masked(layer, score, before)

        state = self.model.embed(*rows) if self.spec.index == 0 else State(*rows)
        if self.pools:
            pooled = self.model.nothing_pooled(state.alive) if pooled is None else pooled
            state = replace(state, pooled=pooled)
        if not self.spec.last:
            *inner, cut = self.spec.steps
            state = self.model.walk(state, inner, decide, ends_at=cut)
            score = self.model.score(cut.layer, state)
            see(Decision(score, state.alive, self.model.pruner.threshold(cut.layer)))
            return self._passed_on(state, self._compact(score, state))
        state = self.model.walk(state, self.spec.steps, decide)
        place = state.position if self.model.config.pruner.protect_until is None else state.place
        return self._answer(state), state.alive, place

    def _answer(self, state: State) -> Tensor:
        """The logits; for a token-level head, which is a unit of its own, the rows."""
        if self.token_level:
            return state.hidden
        if state.pooled is None:
            return self.model.head(self.model.finished(state.hidden))
        mean = state.pooled + self.model.mean_share(state.hidden, are_carried(state.alive), state.pooled)
        return self.model.head.read(mean[:, :-1], state.hidden.dtype)

    def _passed_on(self, state: State, cut: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What a cut returns: TokenCompact's outputs and, for a mean, `pooled` with the rows that are dropped here."""
        if state.pooled is None:
            return cut
        packed, _, _, count = cut
        # All rows less those that go on: what the operator has decided is not decided a second time.
        stay = torch.arange(packed.shape[1], device=packed.device)[None, :] < count[:, None]
        layer = self.spec.steps[-1].layer
        before = self.model.mean_share(state.hidden, are_carried(state.alive), state.pooled, layer)
        return (*cut, state.pooled + before - self.model.mean_share(packed, stay, state.pooled, layer))

    @property
    def compact_attributes(self) -> dict[str, Any]:
        """The attributes of the TokenCompact node that ends the stage; of every stage but the last."""
        return {
            "threshold": self.model.pruner.threshold(self.spec.steps[-1].layer),
            "capacity": 0,
            "protect_first": int(self.model.config.pruner.protect_first),
            # TensorRT takes the plugin of this name for a node with these two, other runtimes the function.
            "plugin_namespace": NAMESPACE,
            "plugin_version": VERSION,
        }

    def _compact(self, score: Tensor, state: State) -> tuple[Tensor, ...]:
        attributes = self.compact_attributes
        inputs = (state.hidden, score, state.alive, state.position)
        if not torch.compiler.is_exporting():
            return token_compact(*inputs, *(attributes[name] for name in ("threshold", "capacity", "protect_first")))
        batch, length, width = state.hidden.shape
        return tuple(
            torch.onnx.ops.symbolic_multi_out(
                f"{names.DOMAIN}::{names.OPERATOR}",
                inputs,
                attributes,
                dtypes=(state.hidden.dtype, torch.int32, torch.int32, torch.int32),
                shapes=((batch, length, width), (batch, length), (batch, length), (batch,)),
                version=1,
            )
        )


class HeadStage(nn.Module):
    """The head of a token-level model, which runs on the restored rows of every token."""

    input_names, output_names = names.HEAD_INPUTS, names.HEAD_OUTPUTS

    def __init__(self, model: PrunedTransformer) -> None:
        super().__init__()
        self.head, self.final_norm = model.head, model.final_norm

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, S, D] to [B, S, outputs]."""
        return self.head(hidden if self.final_norm is None else self.final_norm(hidden))


def same_stage(model: PrunedTransformer, stage: Stage | HeadStage) -> Stage | HeadStage:
    """Returns the same stage of another model."""
    return Stage(model, stage.spec) if isinstance(stage, Stage) else HeadStage(model)


def attentions(spec: StageSpec) -> int:
    """Returns the number of attention layers in a stage."""
    return sum(step.kind == "attend" for step in spec.steps)
