"""What a deployment needs and nothing else: artifact, buckets, scheduler, runner, backends."""

from engines.prediction import Prediction
from engines.reranking import Ranked
from engines.runner import Runner

__all__ = ["Prediction", "Ranked", "Runner"]
