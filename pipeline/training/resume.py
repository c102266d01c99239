"""Saves the state of an interrupted run: one safetensors file with numbers in its header, replaced atomically."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from engines.errors import InputError
from engines.writing import locked, remove_partials, whole_path
from pipeline.model.checkpoint import CHECKPOINT_FILES
from pipeline.model.weights import read_metadata, read_weights, write_weights
from pipeline.training.budget import FlopsBudget
from pipeline.training.setup import Trainee

RECORD = "run.json"
"""Name of the record that a finished run leaves beside its checkpoint."""
_STATE, _BEST = "training_state.safetensors", "training_best.safetensors"


@dataclass
class RunState:
    """The position of a run: after `step` batches of `phase`, with the rank of its best state.

    settings: settings and digests of the inputs; the run continues only with the same ones.
    """

    settings: dict
    phase: int
    step: int
    best: tuple[int, float]
    stale: int
    history: list[dict]
    accumulated: float
    average: float

    def write(self, out: Path, trainee: Trainee, optimizer: torch.optim.Optimizer | None) -> None:
        """Saves the model, AdamW's moments and the random state; a crash while writing leaves the previous state.

        No optimizer: the phase has not begun.
        """
        tensors = {f"model.{name}": value for name, value in trainee.trained_tensors().items()}
        if optimizer is not None:
            for index, parameter in enumerate(_parameters(optimizer)):
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
        tensors["random"] = torch.get_rng_state()
        # One file, so that the numbers and the tensors are always of the same step.
        with writing(out), whole_path(out / _STATE) as path:
            write_weights(path, tensors, {"state": json.dumps(asdict(self))})

    @staticmethod
    def read(out: Path) -> RunState | None:
        """The saved state of a directory, None if there is none."""
        path = out / _STATE
        if not path.is_file():
            return None
        state = RunState(**json.loads(read_metadata(path)["state"]))
        return replace(state, best=(state.best[0], state.best[1]))  # JSON has no tuples

    def restore(
        self,
        trainee: Trainee,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LambdaLR,
        budget: FlopsBudget,
        out: Path,
    ) -> None:
        """Puts the saved tensors back."""
        tensors = read_weights(out / _STATE)
        torch.set_rng_state(tensors.pop("random").to(torch.uint8))
        trainee.load_tensors({n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")})
        for index, parameter in enumerate(_parameters(optimizer)):
            prefix = f"optimizer.{index}."
            moments = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
            if moments:
                optimizer.state[parameter] = moments
        budget.accumulated, budget.average = self.accumulated, self.average
        scheduler.last_epoch = self.step
        rates = zip(optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, rate, factor in rates:
            group["lr"] = rate * factor(self.step)

    @staticmethod
    def write_best(out: Path, trainee: Trainee) -> None:
        """Keeps the best state so far: as the checkpoint, and its tensors, from which the next phase starts."""
        with writing(out):
            with whole_path(out / _BEST) as path:  # first: by it the checkpoint is known as this run's
                write_weights(path, trainee.trained_tensors())
            trainee.save(out)

    @staticmethod
    def read_best(out: Path) -> dict[str, Tensor]:
        """The tensors of the best state so far."""
        return read_weights(out / _BEST)

    @staticmethod
    def remove(out: Path) -> None:
        """Deletes the state. Call it when the checkpoint and the record of a finished run are written."""
        for name in (_STATE, _BEST):
            (out / name).unlink(missing_ok=True)


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """The directory of a run, which nothing but this run and those that it goes on from may have written into.

    Raises InputError where another process trains into it, or it holds a finished run or somebody's checkpoint.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / "run", f"--out {out}", writer="run"):
            if (out / RECORD).is_file():
                raise InputError(f"--out {out}: it already holds a finished run; choose another directory or remove it")
            taken = [name for name in CHECKPOINT_FILES if os.path.lexists(out / name)]
            if taken and not any((out / name).is_file() for name in (_STATE, _BEST)):
                raise InputError(
                    f"--out {out}: it holds {', '.join(taken)}, which no interrupted run has left there; choose "
                    "another directory"
                )
            remove_partials(out)
            for left in out.glob(".checkpoint.*.partial"):
                shutil.rmtree(left, ignore_errors=True)
            yield


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turns an OSError while writing into the directory of a run into an InputError that names --out."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"--out {out}: cannot be written: {error.strerror or error}; free space, get permission or choose another "
            "directory. In the same one, the same command goes on where the run was last saved"
        ) from None


def _parameters(optimizer: torch.optim.Optimizer) -> list:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
