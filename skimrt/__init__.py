"""SkimRT: deploys transformers that learned to skip tokens, so that the skipped tokens really cost nothing.

from skimrt import Runner, build, load_checkpoint

build(checkpoint="runs/ltp", dense="runs/dense", out="artifact")
runner = Runner("artifact")
runner(["one text", ("premise", "hypothesis")])
skimrt.pipeline("artifact")("one text")            # [{"label": ..., "score": ...}], as transformers has it

What a name needs is imported at its first use: `Runner` and `pipeline` need no PyTorch. Folders named `pipeline` or
`engines` in the working directory change nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skimrt.packages import own

own("engines")  # which must be ours before anything of it is imported

from engines.version import __version__  # noqa: E402

if TYPE_CHECKING:
    from engines.prediction import Prediction
    from engines.reranking import Ranked
    from engines.runner import Runner
    from pipeline.model.checkpoint import load_checkpoint
    from skimrt.building import build
    from skimrt.face import Pipeline, pipeline

__all__ = ["Pipeline", "Prediction", "Ranked", "Runner", "__version__", "build", "load_checkpoint", "pipeline"]

_HOMES = {
    "Pipeline": "skimrt.face",
    "Prediction": "engines.prediction",
    "Ranked": "engines.reranking",
    "Runner": "engines.runner",
    "build": "skimrt.building",
    "load_checkpoint": "pipeline.model.checkpoint",
    "pipeline": "skimrt.face",
}
_NEED = {"build": ("plugins", "calib", "pipeline"), "load_checkpoint": ("plugins", "calib", "pipeline")}
"""Packages of ours whose names a user's folder may have as well."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    own(*_NEED.get(name, ()))
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
