"""The training loop: phases, distillation, the FLOPs budget, early stop, and resuming."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from engines.errors import InputError
from engines.tokenization import Tokens
from pipeline.model.flops import count_flops, dense_flops
from pipeline.model.transformer import PrunedTransformer
from pipeline.training.batches import Batch, Sets
from pipeline.training.budget import FlopsBudget
from pipeline.training.config import Phase, RunConfig
from pipeline.training.evaluation import LEARN_THEIR_RATIO, Evaluation, evaluate, ratio_on, reaches_ratio
from pipeline.training.losses import DISTILLED, task_loss
from pipeline.training.reach_ratio import reach_ratio
from pipeline.training.relaxation import Relaxation
from pipeline.training.resume import RunState, writing
from pipeline.training.setup import Trainee
from pipeline.training.token_ranking import answer_and_attention, ranking_loss
from pipeline.training.translators import fit_translators

_CALIBRATION_EXAMPLES, _FEWEST_EXAMPLES, _CALIBRATION_TOKENS = 256, 32, 2**14
"""A ratio is measured on the first examples, the most and the fewest of them, up to a number of tokens."""
_SETTLED_EXAMPLES, _SETTLED_TOKENS = 2048, 2**17
"""Most examples, and most of their tokens, that the ratio of the finished model is measured on."""
_MARGIN = 1.01
"""Decisions are moved to a little more than the ratio on some texts, so that others reach it too."""
_DENSE, _TOO_COSTLY, _CANDIDATE = range(3)


@dataclass
class Result:
    """The result of a run besides its checkpoint."""

    history: list[dict] = field(default_factory=list)
    best: Evaluation | None = None


class Trainer:
    """Runs the phases of a method over a training set and keeps the best checkpoint by the dev set."""

    def __init__(
        self,
        config: RunConfig,
        trainee: Trainee,
        sets: Sets,
        out: Path,
        teacher: PrunedTransformer | None,
        content: Mapping[str, str],
    ) -> None:
        """`content` holds the digest of each input of the run: an interrupted run goes on with the same ones only."""
        train, dev = sets.train, sets.dev
        self.content = content
        self.config, self.trainee, self.model = config, trainee, trainee.model
        self.teacher, self.train_set, self.dev, self.out = teacher, train, dev, out
        self.taught: dict[int, Tensor] = {}
        self.attended: dict[int, Tensor] = {}
        self.result = Result()
        self.best: tuple[int, float] = (-1, 0.0)

    def run(self, progress: Progress | None = None) -> Result:
        """Runs all phases; resumes an interrupted run in the same directory.

        The state stays until `RunState.remove`, so that not even the last phase runs twice.
        """
        self.model.train()
        saved = self._interrupted()
        if saved is not None:
            self.result.history, self.best = saved.history, saved.best
        for number, phase in enumerate(self.config.schedule):
            if saved is None or saved.phase <= number:
                self._run_phase(number, phase, saved if saved and saved.phase == number else None, progress)
        self._settle()
        return self.result

    def _settings(self) -> dict:
        content = {f"content of {name}": digest for name, digest in self.content.items()}
        return {**self.config.model_dump(mode="json", exclude={"threads"}), **content}

    def _interrupted(self) -> RunState | None:
        """Returns the saved state, if any; refuses one of other settings or inputs."""
        saved, ours = RunState.read(self.out), self._settings()
        if saved is not None and saved.settings != ours:
            names = [n for n in {**ours, **saved.settings} if saved.settings.get(n) != ours.get(n)]
            raise InputError(
                f"{self.out}: it holds an interrupted run with another {', '.join(names)}; use the same settings and "
                "files, choose another directory or remove this one"
            )
        return saved

    def _run_phase(self, number: int, phase: Phase, saved: RunState | None, progress: Progress | None) -> None:
        plan = self._batch_plan(phase)
        optimizer = self._optimizer()
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._rate(step, len(plan)))
        relaxation = Relaxation(self.model, phase.name, phase.temperature)
        budget = FlopsBudget(self.config.flops_ratio, self.config.ramp)
        stale, first = 0, 0
        if saved is not None:
            saved.restore(self.trainee, optimizer, scheduler, budget, self.out)
            self.best, stale, first = saved.best, saved.stale, saved.step
        if phase.name != "fine_tune" and first == 0:
            self.model.eval()
            fit_translators(self.model, self._sample(_SETTLED_EXAMPLES, _CALIBRATION_TOKENS))
            self.model.train()
        if phase.name == "hard" and first == 0:
            self._calibrate()
        every = max(1, len(plan) // self.config.evaluations)
        task = progress.add_task(phase.name, total=len(plan), completed=first) if progress else None
        losses: list[float] = []
        started = time.monotonic()
        for step in range(first, len(plan)):
            if stale >= self.config.patience:
                break
            done = step / len(plan)
            # The sample's noise fades over the run: inference decides without it.
            relaxation.noise = 1 - done
            losses.append(self._step(self.train_set.collate(plan[step]), relaxation, budget, phase, done, optimizer))
            scheduler.step()
            if progress is not None and task is not None:
                text = f"{phase.name} loss {sum(losses[-50:]) / len(losses[-50:]):.3f} cost {budget.average:.2f}"
                progress.update(task, completed=step + 1, description=text)
            if (step + 1) % every and step + 1 != len(plan):
                continue
            if phase.name == "hard":  # the weights move the scores; what is judged and kept has the wanted ratio
                self._calibrate()
            evaluation = evaluate(self.model, self.dev, self.config.batch_tokens * 2, self.config.bf16)
            where = {"phase": phase.name, "step": step + 1, "of": len(plan)}
            self.result.history.append({**where, **_measured(losses, evaluation, time.monotonic() - started)})
            if progress is not None:
                line = json.dumps(self.result.history[-1])  # a line whatever the terminal's width: programs read it
                progress.console.print(line, highlight=False, markup=False, soft_wrap=True)
            losses.clear()
            rank = self._rank(phase, evaluation)
            if rank <= self.best and rank[0] != _TOO_COSTLY:
                stale += 1
            if rank >= self.best:  # of equal states the later one, which has learned longer and has the wanted ratio
                stale = 0 if rank > self.best else stale
                self.best = rank
                RunState.write_best(self.out, self.trainee)
                self.result.best = evaluation
            history = self.result.history
            state = RunState(
                self._settings(), number, step + 1, self.best, stale, history, budget.accumulated, budget.average
            )
            state.write(self.out, self.trainee, optimizer)
        # The next phase starts from the best state so far, with a fresh optimizer and budget.
        self.trainee.load_tensors(RunState.read_best(self.out))
        fresh = RunState(self._settings(), number + 1, 0, self.best, 0, self.result.history, 0.0, 1.0)
        fresh.write(self.out, self.trainee, None)

    def _rank(self, phase: Phase, evaluation: Evaluation) -> tuple[int, float]:
        """Returns the rank of a state within the whole run: a later phase replaces a checkpoint only by a better one.

        If the method learns its ratio, a state that computes too much is never chosen, however accurate; such states
        are ordered by their distance to the ratio. The dense fine-tuning before it is a start, not a result.
        """
        if phase.name == "fine_tune" and self.config.method in LEARN_THEIR_RATIO:
            return _DENSE, evaluation.metric
        if not reaches_ratio(self.config, evaluation):
            return _TOO_COSTLY, evaluation.flops_ratio
        return _CANDIDATE, evaluation.metric

    def _calibrate(self) -> None:
        self._move_to(_MARGIN * self.config.flops_ratio, self._sample(_CALIBRATION_EXAMPLES, _CALIBRATION_TOKENS))

    def _settle(self) -> None:
        """Moves the decisions of the best state once more, to the very ratio, on more texts: on a few it is off by
        percents. What stands behind the last decision is not computed, so an early one leaves more texts for the time.
        """
        hard = any(phase.name == "hard" for phase in self.config.schedule)
        if not hard or self.config.method not in LEARN_THEIR_RATIO or self.best[0] <= _DENSE:
            return
        self.trainee.load_tensors(RunState.read_best(self.out))
        layers = self.model.config.encoder.layers
        computed = 1 + max(layer for layer in range(layers) if self.model.pruner.decides(layer))
        tokens = min(_SETTLED_TOKENS, _CALIBRATION_TOKENS * layers // computed)
        self._move_to(self.config.flops_ratio, self._sample(_SETTLED_EXAMPLES, tokens))
        with writing(self.out):  # the best state stays as it was: a run that goes on moves the same one
            self.trainee.save(self.out)

    def _move_to(self, ratio: float, sample: Sequence[Tokens]) -> None:
        self.model.eval()
        reach_ratio(self.model.pruner, ratio, ratio_on(self.model, sample))
        self.model.train()

    def _sample(self, examples: int, tokens: int) -> Sequence[Tokens]:
        """The first texts to train on: at most so many, of so many tokens together unless they are very few."""
        sample = self.train_set.tokens[:examples]
        ends = itertools.accumulate(map(len, sample))
        return sample[: max(_FEWEST_EXAMPLES, sum(end <= tokens for end in ends))]

    def _batch_plan(self, phase: Phase) -> list[list[int]]:
        """Returns the indices of every batch of the phase; equal for equal seeds, so a resumed run continues alike."""
        generator = torch.Generator().manual_seed(self.config.seed)
        plan: list[list[int]] = []
        whole = math.ceil(phase.epochs)
        for _ in range(whole):
            plan += self.train_set.grouped(self.config.batch_tokens, generator)
        return plan[: max(1, round(len(plan) * phase.epochs / whole))]

    def _step(
        self,
        batch: Batch,
        relaxation: Relaxation,
        budget: FlopsBudget,
        phase: Phase,
        done: float,
        optimizer: torch.optim.Optimizer,
    ) -> float:
        relaxation.start(batch.mask)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            state = self.model.embed(batch.input_ids, batch.token_type_ids, batch.mask)
            steps = [step for step in self.model.steps if step.kind != "decide" or phase.name != "fine_tune"]
            hidden = relaxation.last_states(self.model.walk(state, steps, relaxation))
            logits = self.model.head(hidden, batch.mask).float()
        loss = self._loss(logits, batch)
        if self.config.distil_tokens and self.teacher is not None and relaxation.first is not None:
            self._ask_teacher(batch)
            length = batch.mask.shape[1]
            wanted = torch.stack([F.pad(self.attended[index], (0, length))[:length] for index in batch.index.tolist()])
            loss = loss + self.config.distil_tokens * ranking_loss(self.model.pruner, *relaxation.first, wanted)
        if phase.steer:
            real = batch.mask.sum(-1)
            ours = count_flops(self.model.config, real, torch.stack(relaxation.counts)).total.sum()
            loss = loss + budget.loss(ours / dense_flops(self.model.config, real).total.sum(), done).float()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:  # apart: a pruner's gradient is noisy and would drown the encoder's
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimizer.step()
        return float(loss.detach())

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        kind, share = self.model.config.head.kind, self.config.distil
        loss = task_loss(kind, logits, batch)
        if self.teacher is None or share == 0 or kind not in DISTILLED:
            return loss
        if kind == "embedding":
            share = 1.0
        return (1 - share) * loss + share * DISTILLED[kind](logits, self._taught(batch), batch)

    def _taught(self, batch: Batch) -> Tensor:
        """The teacher's logits [B, outputs] or [B, S, outputs]."""
        self._ask_teacher(batch)
        return pad_sequence([self.taught[index] for index in batch.index.tolist()], batch_first=True)

    @torch.no_grad()
    def _ask_teacher(self, batch: Batch) -> None:
        """Keeps the teacher's logits, and what its last layers attend to; computed once per example."""
        assert self.teacher is not None
        indices = batch.index.tolist()
        if all(index in self.taught for index in indices):
            return
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            if self.config.distil_tokens:
                logits, attention = answer_and_attention(self.teacher, batch, self._first_attended())
                self.attended |= {index: row.clone() for index, row in zip(indices, attention, strict=True)}
            else:
                logits = self.teacher(batch.input_ids, batch.mask, batch.token_type_ids).logits
        for index, row, length in zip(indices, logits.float(), batch.mask.sum(1).tolist(), strict=True):
            self.taught[index] = row[:length].clone() if row.dim() == 2 else row.clone()

    def _first_attended(self) -> int:
        """The last layer whose attention comes in front of the first decision, -1 if none."""
        pruner = self.model.pruner
        first = next(layer for layer in range(self.model.config.encoder.layers) if pruner.decides(layer))
        return first if pruner.where == "after_attention" else first - 1

    def _optimizer(self) -> torch.optim.Optimizer:
        groups: dict[str, list] = {"pruner": [], "head": [], "encoder": []}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups[_group_of(name)].append(parameter)
        rates = {"pruner": self._pruner_rate(), "head": self.config.head_lr, "encoder": self.config.lr}
        decay = {"pruner": 0.0, "head": self.config.weight_decay, "encoder": self.config.weight_decay}
        return torch.optim.AdamW(
            [{"params": p, "lr": rates[n], "weight_decay": decay[n]} for n, p in groups.items() if p]
        )

    def _pruner_rate(self) -> float:
        # LTP's thresholds are of the order of the uniform score 1 / reference_length, and so must their steps be.
        return self.config.pruner_lr / (self.model.config.pruner.reference_length or 1)

    def _rate(self, step: int, total: int) -> float:
        rising = self.config.warm_up * total
        return (step + 1) / rising if step < rising else max(0.0, (total - step) / (total - rising))


def _group_of(name: str) -> str:
    """The optimizer's group of a parameter; translators are new layers in front of the head."""
    if name.startswith(("head.", "pruner.translators.")):
        return "head"
    return "pruner" if name.startswith("pruner.") else "encoder"


def make_progress() -> Progress:
    """The live bar of a run."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )


def _measured(losses: Sequence[float], evaluation: Evaluation, seconds: float) -> dict:
    """Returns an evaluation as run.json records it."""
    return {
        "loss": round(sum(losses) / len(losses), 4),
        "dev_metric": round(evaluation.metric, 4),
        **{f"dev_{name}": value for name, value in evaluation.further.items()},
        "dev_flops_ratio": round(evaluation.flops_ratio, 3),
        "dev_keep": evaluation.keep,
        "seconds": round(seconds, 1),
    }
