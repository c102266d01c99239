"""The settings of a training run and the phases that each method goes through."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engines.head import HeadKind
from pipeline.model.config import Method

PhaseName = Literal["fine_tune", "soft", "straight_through", "hard"]
_PHASES: dict[Method, list[PhaseName]] = {
    "dense": [],
    "ltp": ["soft", "hard"],
    "transkimmer": ["straight_through", "hard"],
    "topk": ["hard"],
    "threshold": ["hard"],
}
"""What each method goes through once the dense model is fine-tuned. Transkimmer's last phase is ours: the predictors'
decisions are taken for good, and the encoder gets used to them."""

_STEERED = ("soft", "straight_through")


class Phase(BaseModel):
    """A part of a run with one kind of decision.

    temperature: of the relaxation. steer: whether the FLOPs budget is active.
    """

    model_config = ConfigDict(frozen=True)

    name: PhaseName
    epochs: float = Field(gt=0)
    temperature: float
    steer: bool


class TrainConfig(BaseModel):
    """Everything that decides the outcome of a run, besides the code and the library versions.

    What is None by default depends on the model that the run starts from and on its texts: see `suited`, which makes a
    RunConfig of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method
    data: str
    dev_data: str | None = None
    task: HeadKind | None = None
    label: str | None = None
    text: str | None = None
    text_b: str | None = None
    backbone: str | None = None
    init: str | None = None
    teacher: str | None = None
    max_length: int | None = Field(None, gt=1)
    phases: list[PhaseName] | None = None
    epochs: list[Annotated[float, Field(gt=0)]] = Field(default_factory=lambda: [1.0], min_length=1)
    limit: int | None = Field(None, gt=0)
    dev_limit: int | None = Field(None, gt=0)
    batch_tokens: int | None = Field(None, gt=0)
    lr: float | None = Field(None, gt=0)
    head_lr: float | None = Field(None, gt=0)
    pruner_lr: float | None = Field(None, gt=0)
    warm_up: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    adapter_rank: int | None = Field(None, ge=0)
    flops_ratio: float = Field(2.4, ge=1)
    ramp: float = Field(0.6, ge=0, le=1)
    keep_rate: float = Field(0.7, gt=0, le=1)
    predictor_hidden: int = Field(64, gt=0)
    decide_at: list[Annotated[int, Field(ge=0)]] | None = Field(None, min_length=1)
    protect_first: bool = True
    protect_segment: bool | None = None
    distil: float = Field(0.5, ge=0, le=1)
    distil_tokens: float | None = Field(None, ge=0)
    evaluations: int = Field(6, gt=0)
    patience: int = Field(4, gt=0)
    bf16: bool = False
    threads: int | None = Field(None, gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _starts_somewhere(self) -> TrainConfig:
        if (self.backbone is None) == (self.init is None):
            raise ValueError("give exactly one of --backbone (a pretrained encoder) and --init (a trained checkpoint)")
        phases = self._phase_names()
        if len(self.epochs) > len(phases):
            raise ValueError(f"epochs has {len(self.epochs)} values for {len(phases)} phase(s): {', '.join(phases)}")
        possible = {"fine_tune", *_PHASES[self.method]}
        if self.distil_tokens and (self.method not in ("ltp", "transkimmer") or not (self.init or self.teacher)):
            raise ValueError(
                f"--distil-tokens: expected --method ltp or transkimmer, and a teacher (--init or --teacher), found "
                f"{self.method} {'with' if self.init or self.teacher else 'without'} a teacher"
            )
        if wrong := [name for name in phases if name not in possible]:
            raise ValueError(f"{self.method} has no phase {', '.join(wrong)}, only {', '.join(sorted(possible))}")
        return self

    def _phase_names(self) -> list[PhaseName]:
        """From a backbone, every pruned method fine-tunes the dense model first."""
        if self.phases is not None:
            return self.phases
        return _PHASES[self.method] if self.init and _PHASES[self.method] else ["fine_tune", *_PHASES[self.method]]

    @property
    def schedule(self) -> list[Phase]:
        """The phases in order; the last of `epochs` is that of all further phases."""
        names = self._phase_names()
        epochs = self.epochs + [self.epochs[-1]] * (len(names) - len(self.epochs))
        return [
            Phase(name=name, epochs=share, temperature=0.1 if name == "soft" else 1.0, steer=name in _STEERED)
            for name, share in zip(names, epochs, strict=True)
        ]


class RunConfig(TrainConfig):
    """The settings of a run with nothing left open; `model_fields_set` are still those that were given."""

    max_length: int
    batch_tokens: int
    lr: float
    head_lr: float
    pruner_lr: float
    adapter_rank: int
    distil_tokens: float

    @property
    def distils(self) -> bool:
        """Whether anything is learned from a teacher, where there is one."""
        return self.distil > 0 or self.distil_tokens > 0
