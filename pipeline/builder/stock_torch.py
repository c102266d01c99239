"""The dense model in PyTorch, eagerly or through torch.compile, to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from engines.errors import InputError
from pipeline.builder.stock import DenseGraph, Stock
from pipeline.graph.export import export_stage
from pipeline.graph.stages import Stage, cut_stages
from pipeline.model import PrunedTransformer, load_checkpoint
from pipeline.model.checkpoint import tokenizer_path


class StockTorch(Stock):
    """The reference model, all of it in one piece. Its attention is written out, as in the graph; it is not fused.

    compiled: through torch.compile with symbolic shapes.
    """

    precision = "fp32"

    def __init__(
        self, dense: DenseGraph, model: PrunedTransformer, batch: int, max_length: int, compiled: bool = False
    ) -> None:
        super().__init__(dense, batch, max_length)
        stage = whole(model)
        self._call = torch.compile(stage, dynamic=True) if compiled else stage

    @torch.inference_mode()
    def infer(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits of a batch."""
        return self._call(*map(torch.from_numpy, inputs.values()))[0].numpy()


def whole(model: PrunedTransformer) -> Stage:
    """A dense model as one stage. Raises InputError for one that skips tokens or answers token by token."""
    if model.config.pruner.method != "dense" or model.config.head.token_level:
        raise InputError(
            f"expected a dense model that answers whole texts, found a {model.config.head.kind} model with the method "
            f"{model.config.pruner.method}"
        )
    (spec,) = cut_stages(model, [])
    return Stage(model, spec).eval()


def graph_of_checkpoint(checkpoint: Path, folder: Path) -> DenseGraph:
    """Exports a dense checkpoint into a folder. Raises InputError."""
    model = load_checkpoint(checkpoint)
    graph, encoder = folder / "dense.onnx", model.config.encoder
    export_stage(whole(model), model.config, graph)
    return DenseGraph(graph, tokenizer_path(checkpoint), encoder.type_vocab_size, encoder.pad_token_id)
