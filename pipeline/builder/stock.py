"""The dense model as a user of OpenVINO alone would run it, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.artifact import Artifact
from engines.backends.openvino import OpenVinoBackend, core
from engines.errors import InputError
from engines.manifest import TOKENIZER_NAME
from engines.tokenization import Text, TextEncoder

NAME = "stock OpenVINO"


class StockModel:
    """An uncut model's graph as one dynamic model with OpenVINO's own defaults, its default precision among them.

    Texts go in as they come, `batch` at a time, padded to the longest of the batch.
    artifact: of a model in one stage, for the target cpu. max_length: tokens at which texts are cut. fp32: computes in
    it, whatever the default is. Raises InputError for another artifact.
    """

    def __init__(
        self, artifact: Path, batch: int, max_length: int, threads: int | None = None, fp32: bool = False
    ) -> None:
        opened = Artifact.open(artifact, verify=False)
        stages, encoder = opened.manifest.plan.stages, opened.manifest.encoder
        if len(stages) != 1 or opened.manifest.head.token_level:
            raise InputError(f"{artifact}: expected a model in one stage to compare with, found {len(stages)}")
        self._batch, self._pad = batch, encoder.pad_token_id
        self._encode = TextEncoder(opened.file(TOKENIZER_NAME), max_length, encoder.type_vocab_size)
        config: dict[str, object] = {} if threads is None else {"INFERENCE_NUM_THREADS": threads}
        if fp32:
            config["INFERENCE_PRECISION_HINT"] = "f32"
        self._compiled = core().compile_model(str(opened.file(stages[0].graph)), "CPU", config)
        self._request = self._compiled.create_infer_request()

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, or None."""
        return OpenVinoBackend().available()

    @property
    def precision(self) -> str:
        """What OpenVINO computes in by default on this machine."""
        kind = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return {"f32": "fp32", "f16": "fp16"}.get(kind, kind)

    def __call__(self, texts: Sequence[Text]) -> list[np.ndarray]:
        """The logits of every text, in order."""
        found: list[np.ndarray] = []
        for start in range(0, len(texts), self._batch):
            outputs = self._request.infer(self._inputs(texts[start : start + self._batch]))
            found += list(outputs[self._compiled.output("logits")])
        return found

    def _inputs(self, texts: Sequence[Text]) -> dict[str, Any]:
        tokens = self._encode(texts)
        shape = (len(tokens), max(len(one) for one in tokens))
        ids, types, alive = np.full(shape, self._pad, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for row, one in enumerate(tokens):
            ids[row, : len(one)], types[row, : len(one)], alive[row, : len(one)] = one.input_ids, one.token_type_ids, 1
        known = {"input_ids": ids, "token_type_ids": types, "alive": alive}
        names = {name for port in self._compiled.inputs for name in port.get_names()}
        return {name: value for name, value in known.items() if name in names}
