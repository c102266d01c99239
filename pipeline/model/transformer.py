"""The reference: an encoder that walks one list of steps, masked or compacted.

The same steps are what the graph package cuts into stages, so the reference and the engines run the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.errors import InputError
from engines.stages import Step
from pipeline.model.config import CheckpointConfig
from pipeline.model.encoder import Attention, Embeddings, FeedForward, make_norm
from pipeline.model.heads import Head, row_sums
from pipeline.model.positions import Geometry, Positions
from pipeline.model.pruners import make_pruner
from plugins.token_compact.operator import are_carried, surviving, token_compact

Execution = Literal["masked", "compacted"]


@dataclass
class State:
    """What flows from step to step.

    hidden [B, S, D]; alive [B, S] int32; position [B, S] int32, each row's place in the original sequence, or -1 minus
    it where the row is protected;
    mass [B, S] fp32, the attention mass of the last attention if a decision needs it; keep [B, S] fp32 in [0, 1],
    only while training: the relaxation of `alive`; pooled [B, D + 1] fp32, only in a stage: see engines.stages.POOLED.
    """

    hidden: Tensor
    alive: Tensor
    position: Tensor
    mass: Tensor | None = None
    keep: Tensor | None = None
    pooled: Tensor | None = None

    @property
    def place(self) -> Tensor:
        """[B, S] int32: each row's place in the original sequence."""
        return torch.where(self.position < 0, -1 - self.position, self.position)

    @property
    def protected(self) -> Tensor:
        """[B, S] bool: the rows of a protected segment."""
        return self.position < 0


Decide = Callable[[int, Tensor, State], State]
"""What happens at a decision point: (layer, score [B, S], state) to the state that goes on."""


@dataclass
class Output:
    """logits [B, outputs] or [B, S, outputs]; last_hidden_state [B, S, D]; alive [layers, B, S] bool after each layer's
    decision; score [layers, B, S] fp32, NaN where a layer does not score or the token was already dead; counts
    [layers, B] int32, the rows that are carried on."""

    logits: Tensor
    last_hidden_state: Tensor
    alive: Tensor
    score: Tensor
    counts: Tensor


@dataclass
class _Trace:
    """Collects the per-layer records of a run, in the original order of the tokens."""

    final: Tensor
    alive: list[Tensor] = field(default_factory=list)
    score: list[Tensor] = field(default_factory=list)

    def write_states(self, state: State, last: Tensor) -> None:
        """Stores the last states [B, s, D] of the rows that were just processed."""
        place = state.place.long()[:, :, None].expand_as(last)
        carried = are_carried(state.alive)[:, :, None]
        # The other rows write back what is stored at their place, which changes nothing.
        rows = torch.where(carried, last.to(self.final.dtype), self.final.gather(1, place))
        self.final = self.final.scatter(1, place, rows)

    def to_original(self, values: Tensor, state: State, fill: float) -> Tensor:
        """values [B, s] to [B, S] at the rows' original places."""
        full = torch.full(self.final.shape[:2], fill, dtype=values.dtype, device=values.device)
        return full.scatter(1, state.place.long(), values)


class PrunedTransformer(nn.Module):
    """Encoder, pruner and head of a checkpoint. Built by `load_checkpoint`; runs in eval mode unless trained."""

    def __init__(self, config: CheckpointConfig) -> None:
        super().__init__()
        self.config, encoder = config, config.encoder
        distinct = range(encoder.layer_groups or encoder.layers)
        self.embeddings = Embeddings(encoder)
        self.positions = Positions(encoder)
        self.attention = nn.ModuleList(Attention(encoder, layer) for layer in distinct)
        self.feed_forward = nn.ModuleList(FeedForward(encoder) for _ in distinct)
        self.final_norm = make_norm(encoder) if encoder.norm == "pre" else None
        self.pruner = make_pruner(config.pruner, encoder)
        self.head = Head(config.head, config.encoder)

    @property
    def steps(self) -> list[Step]:
        """The whole walk, from behind the embeddings to before the head."""
        steps: list[Step] = []
        for layer in range(self.config.encoder.layers):
            decide = [Step("decide", layer)] if self.pruner.decides(layer) else []
            before = self.pruner.where == "before_attention"
            steps += [*(decide if before else []), Step("attend", layer), *([] if before else decide)]
            steps.append(Step("feed", layer))
        return steps

    def embed(self, input_ids: Tensor, token_type_ids: Tensor, alive: Tensor) -> State:
        """The state in front of the first step. Tokens must be packed to the left; `alive` [B, S] is 0 on padding."""
        place = torch.arange(input_ids.shape[1], device=input_ids.device)[None, :].expand_as(input_ids)
        hidden, position = self.embeddings(input_ids, token_type_ids, place), place.to(torch.int32)
        if self.config.pruner.protect_until is not None:
            ends = torch.where(input_ids == self.config.pruner.protect_until, position, input_ids.shape[1])
            position = torch.where(position <= ends.amin(1, keepdim=True), -1 - position, position)
        return State(hidden, alive.to(torch.int32), position)

    def group(self, layer: int) -> int:
        """Which of the distinct layers a layer is; its own number, unless layers are shared."""
        return layer * len(self.attention) // self.config.encoder.layers

    def finished(self, hidden: Tensor) -> Tensor:
        """Rows behind the last block to the encoder's last hidden state, row by row."""
        return hidden if self.final_norm is None else self.final_norm(hidden)

    def left_behind(self, layer: int, hidden: Tensor) -> Tensor:
        """The last states [B, S, D] of rows if the decision of `layer` drops them."""
        return self.pruner.translated(layer, self.finished(hidden))

    def nothing_pooled(self, alive: Tensor) -> Tensor:
        """`State.pooled` of whole texts, of which no token was dropped."""
        share = 1 / alive.sum(-1, keepdim=True).clamp_min(1).float()
        return F.pad(share, (self.config.encoder.hidden_size, 0))

    def mean_share(self, hidden: Tensor, rows: Tensor, pooled: Tensor, dropped_by: int | None = None) -> Tensor:
        """What these rows, [B, S] bool, add to `State.pooled`: their last states' part of the mean.

        dropped_by: the layer whose decision drops them; None: they are behind the last layer.
        """
        share = pooled[:, -1:]
        sums = row_sums(self.finished(hidden), rows, share)
        if dropped_by is not None:
            sums = self.pruner.translated(dropped_by, sums, share * rows.sum(-1, keepdim=True))
        return F.pad(sums, (0, 1))

    def walk(self, state: State, steps: Sequence[Step], decide: Decide, ends_at: Step | None = None) -> State:
        """Runs `steps` from `state`; `decide` is called at every decision point with the scores.

        `ends_at` is a decision that the caller takes behind the last step; the state then holds what it needs.
        """
        geometry: Geometry | None = None
        located: Tensor | None = None
        for index, step in enumerate(steps):
            group = self.group(step.layer)
            if step.kind == "attend":
                if geometry is None or located is not state.position:
                    located = state.position
                    place = located if self.config.pruner.protect_until is None else state.place
                    geometry = self.positions.at(place, state.hidden.dtype)
                following = steps[index + 1] if index + 1 < len(steps) else ends_at
                need_mass = following == Step("decide", step.layer)
                zero_dead = not self.config.pruner.protect_first
                hidden, mass = self.attention[group](
                    state.hidden, state.alive, state.keep, need_mass, zero_dead, geometry
                )
                state = replace(state, hidden=hidden, mass=mass)
            elif step.kind == "feed":
                state = replace(state, hidden=self.feed_forward[group](state.hidden))
            else:
                score = self.score(step.layer, state)
                state = replace(decide(step.layer, score, state), mass=None)
        return state

    def score(self, layer: int, state: State) -> Tensor:
        """The fp32 score [B, S] of a decision; that of a protected row is well above the threshold, whatever it was.

        At the threshold itself, every gate would take the decision on it for a matter of rounding.
        """
        score = self.pruner.score(layer, state.hidden, state.mass, state.alive).float()
        if self.config.pruner.protect_until is None:
            return score
        threshold = self.pruner.threshold(layer)
        return torch.where(state.protected, score.clamp_min(threshold + (abs(threshold) or 1.0)), score)

    def decide_masked(self, layer: int, score: Tensor, state: State) -> State:
        """Dead tokens stay where they are and leave the softmax."""
        keep = surviving(score, state.alive, self.pruner.threshold(layer), self.config.pruner.protect_first)
        pooled = state.pooled
        if pooled is not None:
            gone = are_carried(state.alive) & ~are_carried(keep)
            pooled = pooled + self.mean_share(state.hidden, gone, pooled, layer)
        return replace(state, alive=keep.to(torch.int32), pooled=pooled)

    def decide_compacted(self, layer: int, score: Tensor, state: State) -> State:
        """Dead rows are removed; the batch is as long as its longest sample's survivors."""
        threshold, protect = self.pruner.threshold(layer), self.config.pruner.protect_first
        hidden, alive, position, count = token_compact(
            state.hidden, score.float(), state.alive, state.position, threshold, 0, protect
        )
        longest = int(count.max())
        return State(hidden[:, :longest], alive[:, :longest], position[:, :longest])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        execution: Execution = "masked",
    ) -> Output:
        """input_ids [B, S]; attention_mask [B, S], 1 on real tokens, wherever they are; token_type_ids [B, S].

        Raises InputError for an empty batch, a length that the position table does not cover, or ids out of range.
        """
        input_ids, mask, token_type_ids = self._checked(input_ids, attention_mask, token_type_ids)
        order = None
        if bool((mask[:, 1:] > mask[:, :-1]).any()):  # left padding or holes: bring the real tokens to the front
            order = torch.argsort(1 - mask, dim=1, stable=True)
            input_ids, token_type_ids, mask = (x.gather(1, order) for x in (input_ids, token_type_ids, mask))

        state = self.embed(input_ids, token_type_ids, mask)
        trace = _Trace(final=self.finished(state.hidden))
        decisions = {"masked": self.decide_masked, "compacted": self.decide_compacted}
        if execution not in decisions:
            raise InputError(f"execution is 'masked' or 'compacted', found {execution!r}")

        def decide(layer: int, score: Tensor, before: State) -> State:
            trace.write_states(before, self.left_behind(layer, before.hidden))
            known = torch.where(before.alive > 0, score.float(), torch.nan)
            trace.score[layer] = trace.to_original(known, before, torch.nan)
            after = decisions[execution](layer, score, before)
            for later in range(layer, len(trace.alive)):
                trace.alive[later] = trace.to_original(after.alive, after, 0)
            return after

        layers = self.config.encoder.layers
        trace.alive = [mask.to(torch.int32)] * layers
        trace.score = [torch.full(mask.shape, torch.nan, device=mask.device)] * layers
        state = self.walk(state, self.steps, decide)
        trace.write_states(state, self.finished(state.hidden))

        alive = torch.stack(trace.alive) > 0
        counts = are_carried(alive).sum(-1, dtype=torch.int32)
        result = Output(self.head(trace.final, mask), trace.final, alive, torch.stack(trace.score), counts)
        return result if order is None else self._unpacked(result, order)

    def _checked(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        encoder, problems = self.config.encoder, []
        if input_ids.dim() != 2 or 0 in input_ids.shape:
            raise InputError(
                f"input_ids must be [batch, length] with at least one token, found {list(input_ids.shape)}"
            )
        if input_ids.shape[1] > encoder.longest_input:
            problems.append(f"length {input_ids.shape[1]} exceeds the {encoder.longest_input} positions of the encoder")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        for name, value in (("attention_mask", mask), ("token_type_ids", types)):
            if value.shape != input_ids.shape:
                problems.append(f"{name} must have the shape {list(input_ids.shape)}, found {list(value.shape)}")
        ranges = (
            ("input_ids", input_ids, encoder.vocab_size),
            ("token_type_ids", types, max(1, encoder.type_vocab_size)),
        )
        for name, value, end in ranges:
            low, high = int(value.min()), int(value.max())
            if low < 0 or high >= end:
                problems.append(f"{name} must lie in [0, {end}), found [{low}, {high}]")
        if problems:
            raise InputError.listing("model input", problems)
        return input_ids, (mask > 0).long(), types

    @staticmethod
    def _unpacked(result: Output, order: Tensor) -> Output:
        """Puts everything that has a place per token back where the caller had it."""

        def back(x: Tensor, at: int) -> Tensor:  # `at` is the batch dimension of x
            index = order.view([1] * at + list(order.shape) + [1] * (x.dim() - at - 2)).expand_as(x)
            return torch.empty_like(x).scatter(at + 1, index, x)

        logits = back(result.logits, 0) if result.logits.dim() == 3 else result.logits
        state = back(result.last_hidden_state, 0)
        return Output(logits, state, back(result.alive, 1), back(result.score, 1), result.counts)
