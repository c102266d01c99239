"""A model of Triton's Python backend: texts in, answers out, through SkimRT's runner.

`skimrt export_triton` copies this file beside an artifact. Requests that Triton's dynamic batcher brings together go
through one call of the runner; a bad text is an error of its own request alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from engines.errors import InputError, SkimError
from engines.inputs import Answer, Input
from engines.prediction import Prediction
from engines.runner import Runner


class TritonPythonModel:
    """One instance: a runner with every engine loaded."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the artifact that lies beside this file. Raises SkimError, which Triton shows."""
        parameters = json.loads(args["model_config"]).get("parameters", {})
        setting = {name: value["string_value"] for name, value in parameters.items()}
        threads = setting.get("threads")
        self.runner = Runner(
            Path(__file__).resolve().parent / "artifact",
            truncate=setting.get("truncate") == "true",
            threads=int(threads) if threads else None,
        )
        self.runner.warm_up()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response for every request, in order."""
        inputs = [_inputs(request) for request in requests]
        try:
            answers = iter(self.runner.answers([one for texts in inputs for one in texts]))
        except SkimError as error:
            return [_refused([error]) for _ in requests]
        return [self._response(list(islice(answers, len(texts)))) for texts in inputs]

    def _response(self, answers: Sequence[Answer]) -> Any:
        if errors := [one for one in answers if isinstance(one, SkimError)]:
            return _refused(errors)
        try:
            found = [self.runner.read(one) for one in answers if isinstance(one, list)]
        except SkimError as error:
            return _refused([error])
        outputs = outputs_of(found, self.runner.manifest.head.kind)
        tensors = [pb_utils.Tensor(name, values) for name, values in outputs.items()]
        return pb_utils.InferenceResponse(output_tensors=tensors)


def outputs_of(found: Sequence[Prediction], kind: str) -> dict[str, np.ndarray]:
    """The arrays of a response by name, [texts, numbers of each], as config.pbtxt has them."""
    outputs = {
        "RECORD": _strings([json.dumps(one.record()) for one in found]),
        "TOKENS": np.array([[one.tokens] for one in found], np.int32),
        "RETENTION": np.array([one.retention for one in found], np.int32),
    }
    if kind == "classification":
        outputs["LABEL"] = _strings([str(one.label) for one in found])
        outputs["SCORE"] = np.array([[one.probability] for one in found], np.float32)
    if kind in ("classification", "multi_label"):
        outputs["LOGITS"] = np.array([one.logits for one in found], np.float32)
    if kind == "multi_label":
        outputs["SCORE"] = np.array([list((one.probabilities or {}).values()) for one in found], np.float32)
    if kind in ("regression", "ranking"):
        outputs["SCORE"] = np.array([one.logits for one in found], np.float32)
    if kind == "embedding":
        outputs["EMBEDDING"] = np.array([one.logits for one in found], np.float32)
    return outputs


def _strings(values: Sequence[str]) -> np.ndarray:
    return np.array([[value.encode()] for value in values], np.object_)


def _inputs(request: Any) -> list[Input]:
    """The texts or pairs of a request, [texts, 1] bytes each; what is no UTF-8 is left for the runner to refuse."""
    columns = []
    for name in ("TEXT", "TEXT_PAIR"):
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        if tensor is not None:
            columns.append([value.decode(errors="surrogateescape") for value in tensor.as_numpy().reshape(-1)])
    if len(columns) == 1:
        return [Input(text, number) for number, text in enumerate(columns[0], 1)]
    return [Input(pair, number) for number, pair in enumerate(zip(*columns, strict=True), 1)]


def _refused(errors: Sequence[SkimError]) -> Any:
    """The error of a request: INVALID_ARG where its texts are at fault."""
    ours = next((error for error in errors if not isinstance(error, InputError)), None)
    code = pb_utils.TritonError.INVALID_ARG if ours is None else pb_utils.TritonError.INTERNAL
    message = str(InputError.listing("request", [str(error) for error in errors]) if ours is None else ours)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
