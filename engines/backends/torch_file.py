"""The engine file of the target `torch`: a safetensors file of the weights, once, and of the package that runs them.

Its metadata describes the package. It is read without the safetensors package, and nothing in it is copied.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engines.buckets import Bucket
from engines.errors import InputError, validation_problems
from engines.limits import Length

PACKAGE = "package"
"""The tensor that holds AOTInductor's package; weights have dots or other names."""
Run = Callable[[list[Any]], Sequence[Any]]
"""What a loaded model does: takes and returns tensors of PyTorch."""
_METADATA, _OURS = "__metadata__", "skimrt"
_ALIGNMENT = 64
_TYPES: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "I64": np.int64,
    "F32": np.float32,
    "I32": np.int32,
    "F16": np.float16,
    "BF16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""Of safetensors, widest first. bfloat16, which numpy lacks, is its bits."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorOf(_Strict):
    """An input or output: name, safetensors' name of its type, and sizes; "batch" and "length" are the bucket's."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def shape_at(self, bucket: Bucket) -> tuple[int, ...]:
        """The shape in a bucket."""
        sizes = {"batch": bucket.batch, "length": bucket.length}
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)

    @property
    def numpy(self) -> np.dtype:
        """The type; of bfloat16 that of its bits."""
        return np.dtype(_TYPES[self.dtype])


class Model(_Strict):
    """A compiled model of the package: the least and the greatest batch and length that it runs."""

    name: str
    batch: tuple[Length, Length]
    length: tuple[Length, Length]

    def runs(self, bucket: Bucket) -> bool:
        """Whether a bucket lies within its bounds."""
        return self.batch[0] <= bucket.batch <= self.batch[1] and self.length[0] <= bucket.length <= self.length[1]


class Contents(_Strict):
    """What an engine's package holds, and the tensors that all of its models take and return."""

    models: tuple[Model, ...] = Field(min_length=1)
    inputs: tuple[TensorOf, ...] = Field(min_length=1)
    outputs: tuple[TensorOf, ...] = Field(min_length=1)

    def model_for(self, bucket: Bucket) -> Model | None:
        """The model that runs a bucket; None where there is none."""
        return next((model for model in self.models if model.runs(bucket)), None)


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: its type as of safetensors, and its values in the file's memory."""

    dtype: str
    values: np.ndarray


def write_engine(path: Path, contents: Contents, weights: Mapping[str, Stored], package: bytes) -> None:
    """Writes an engine. Raises OSError."""
    held = {**weights, PACKAGE: Stored("U8", np.frombuffer(package, np.uint8))}
    widest_first = sorted(held, key=lambda name: (list(_TYPES).index(held[name].dtype), name))  # so all are aligned
    header: dict[str, Any] = {_METADATA: {_OURS: contents.model_dump_json()}}
    at = 0
    for name in widest_first:
        stored = held[name]
        header[name] = {
            "dtype": stored.dtype,
            "shape": list(stored.values.shape),
            "data_offsets": [at, at + stored.values.nbytes],
        }
        at += stored.values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in widest_first:
            file.write(np.ascontiguousarray(held[name].values).reshape(-1).view(np.uint8).data)


def read_engine(engine_file: Path, content: np.ndarray) -> tuple[Contents, dict[str, Stored], np.ndarray]:
    """What an engine holds, its weights by name, and the bytes of its package; all of them in the memory of `content`.

    Raises InputError for another file.
    """
    try:
        size = int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8 : 8 + size].tobytes())
        contents = Contents.model_validate_json(header.pop(_METADATA)[_OURS])
        data = content[8 + size :]
        stored = {name: _stored(data, entry) for name, entry in header.items()}
        return contents, stored, stored.pop(PACKAGE).values
    except ValidationError as error:
        raise InputError(f"{engine_file}: {'; '.join(validation_problems(error))}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{engine_file}: expected an engine of the target torch, found {error!r}") from None


def _stored(data: np.ndarray, entry: dict[str, Any]) -> Stored:
    """A tensor in the memory behind the header. Raises ValueError unless it lies whole and aligned in it."""
    dtype, shape, (start, end) = np.dtype(_TYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
    if not 0 <= start <= end <= len(data) or end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"a tensor {shape} at {start} to {end} of {len(data)} bytes")
    return Stored(entry["dtype"], data[start:end].view(dtype).reshape(shape))
