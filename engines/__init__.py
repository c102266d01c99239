"""What a deployment needs and nothing else: the artifact, the buckets, the scheduler, the runner and its backends."""

from engines.prediction import Prediction
from engines.runner import Runner

__all__ = ["Prediction", "Runner"]
