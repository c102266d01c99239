"""The PyTorch reference: encoder, pruners, heads and checkpoints."""

from pipeline.model.checkpoint import load_checkpoint, save_checkpoint
from pipeline.model.config import CheckpointConfig
from pipeline.model.transformer import Output, PrunedTransformer

__all__ = ["CheckpointConfig", "Output", "PrunedTransformer", "load_checkpoint", "save_checkpoint"]
