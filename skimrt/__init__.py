"""SkimRT: deploys transformers that learned to skip tokens, so that the skipped tokens really cost nothing.

from skimrt import Runner, build, load_checkpoint

build(checkpoint="runs/ltp", dense="runs/dense", out="artifact")
runner = Runner("artifact")
runner(["one text", ("premise", "hypothesis")])

What a name needs is imported at its first use: `Runner` needs no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from engines.version import __version__

if TYPE_CHECKING:
    from engines.prediction import Prediction
    from engines.reranking import Ranked
    from engines.runner import Runner
    from pipeline.model.checkpoint import load_checkpoint
    from skimrt.building import build

__all__ = ["Prediction", "Ranked", "Runner", "__version__", "build", "load_checkpoint"]

_HOMES = {
    "Prediction": "engines.prediction",
    "Ranked": "engines.reranking",
    "Runner": "engines.runner",
    "build": "skimrt.building",
    "load_checkpoint": "pipeline.model.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
