"""python -m engines.backends.torch_worker: compiles one engine with AOTInductor, as `worker` says.

"layers" of its answer is empty: AOTInductor tells of none.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.backends.torch_compiler import compile_program
from engines.backends.worker import Say, answering
from engines.buckets import Bucket


@dataclass(frozen=True)
class TorchRequest:
    """What the worker is asked for: the files of program and engine, the device, batch and length of every profile.

    operator: the program has TokenCompact as an operator of its own, whose kernel the plugin library brings.
    """

    program: str
    out: str
    device: str
    buckets: tuple[tuple[int, int], ...]
    operator: bool = False


def main() -> int:
    """0 when the engine is written; 1 with an answer why not."""

    def work(asked: dict[str, Any], say: Say) -> list[list[dict[str, Any]]]:
        request = TorchRequest(**asked)
        buckets = [Bucket(batch=batch, length=length) for batch, length in request.buckets]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns about its own deprecations
            if request.operator:
                import plugins.token_compact.operator  # noqa: F401 (PyTorch then knows it)
            compile_program(Path(request.program), Path(request.out), request.device, buckets, say)
        return []

    return answering(work)


if __name__ == "__main__":
    sys.exit(main())
