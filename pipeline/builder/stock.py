"""The dense model as users of OpenVINO or ONNX Runtime alone would run it, to compare with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.artifact import Artifact
from engines.backends.onnxruntime import OnnxRuntimeBackend
from engines.backends.openvino import OpenVinoBackend, core
from engines.errors import InputError
from engines.manifest import TOKENIZER_NAME
from engines.quiet import onnxruntime_package
from engines.tokenization import Text, TextEncoder

NAME = "stock OpenVINO"


@dataclass(frozen=True)
class DenseGraph:
    """The graph of an uncut model, and what texts need to go into it."""

    graph: Path
    tokenizer: Path
    segments: int
    pad_token_id: int

    @classmethod
    def of_artifact(cls, artifact: Path) -> DenseGraph:
        """That of an artifact of a model in one stage. Raises InputError for another artifact."""
        opened = Artifact.open(artifact, verify=False)
        stages, encoder = opened.manifest.plan.stages, opened.manifest.encoder
        if len(stages) != 1 or opened.manifest.head.token_level:
            raise InputError(f"{artifact}: expected a model in one stage to compare with, found {len(stages)}")
        graph, tokenizer = opened.file(stages[0].graph), opened.file(TOKENIZER_NAME)
        return cls(graph, tokenizer, encoder.type_vocab_size, encoder.pad_token_id)


class Stock(ABC):
    """A dense model whose texts go in as they come, `batch` at a time, padded to the longest of the batch.

    max_length: tokens at which texts are cut.
    """

    def __init__(self, dense: DenseGraph, batch: int, max_length: int) -> None:
        self._batch, self._pad = batch, dense.pad_token_id
        self._encode = TextEncoder(dense.tokenizer, max_length, dense.segments)

    @property
    @abstractmethod
    def precision(self) -> str:
        """What the library computes in by default on this machine."""

    @abstractmethod
    def infer(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits [batch, outputs] of input_ids, token_type_ids and alive, each [batch, length] int32."""

    def __call__(self, texts: Sequence[Text]) -> list[np.ndarray]:
        """The logits of every text, in order."""
        found: list[np.ndarray] = []
        for start in range(0, len(texts), self._batch):
            found += list(self.infer(self._inputs(texts[start : start + self._batch])))
        return found

    def _inputs(self, texts: Sequence[Text]) -> dict[str, np.ndarray]:
        tokens = self._encode(texts)
        shape = (len(tokens), max(len(one) for one in tokens))
        ids, types, alive = np.full(shape, self._pad, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for row, one in enumerate(tokens):
            ids[row, : len(one)], types[row, : len(one)], alive[row, : len(one)] = one.input_ids, one.token_type_ids, 1
        return {"input_ids": ids, "token_type_ids": types, "alive": alive}


class StockModel(Stock):
    """The graph as one dynamic model with OpenVINO's own defaults, its default precision among them.

    dense: an artifact of a model in one stage, or the graph of one. fp32: computes in it, whatever the default is.
    Raises InputError for another artifact.
    """

    def __init__(
        self, dense: Path | DenseGraph, batch: int, max_length: int, threads: int | None = None, fp32: bool = False
    ) -> None:
        dense = dense if isinstance(dense, DenseGraph) else DenseGraph.of_artifact(dense)
        super().__init__(dense, batch, max_length)
        config: dict[str, object] = {} if threads is None else {"INFERENCE_NUM_THREADS": threads}
        if fp32:
            config["INFERENCE_PRECISION_HINT"] = "f32"
        self._compiled = core().compile_model(str(dense.graph), "CPU", config)
        self._request = self._compiled.create_infer_request()
        self._names = {name for port in self._compiled.inputs for name in port.get_names()}

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, or None."""
        return OpenVinoBackend().available()

    @property
    def precision(self) -> str:
        """What OpenVINO computes in by default on this machine."""
        kind = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return {"f32": "fp32", "f16": "fp16"}.get(kind, kind)

    def infer(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits of a batch."""
        outputs = self._request.infer({name: value for name, value in inputs.items() if name in self._names})
        return outputs[self._compiled.output("logits")]


class StockOnnxRuntime(Stock):
    """The graph as one dynamic session with ONNX Runtime's own defaults."""

    precision = "fp32"

    def __init__(self, dense: DenseGraph, batch: int, max_length: int, threads: int | None = None) -> None:
        super().__init__(dense, batch, max_length)
        library = onnxruntime_package()
        options = library.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session = library.InferenceSession(str(dense.graph), options, providers=["CPUExecutionProvider"])
        self._names = {one.name for one in self._session.get_inputs()}

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, or None."""
        return OnnxRuntimeBackend().available()

    def infer(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits of a batch."""
        given = {name: value for name, value in inputs.items() if name in self._names}
        return self._session.run(["logits"], given)[0]
