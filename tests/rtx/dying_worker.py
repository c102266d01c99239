"""The worker, killed at any engine with a profile of a batch size that DYING_BATCHES lists, as when memory is short."""

from __future__ import annotations

import os
import signal
import sys
from types import ModuleType

from engines.backends import tensorrt_worker
from engines.backends.isolated import Request
from engines.backends.layers import Layer
from engines.backends.tensorrt_worker import Say, compile_engine


def compile_or_die(trt: ModuleType, request: Request, say: Say) -> list[list[Layer]]:
    """Compiles, or says that memory is short and is killed."""
    if {str(batch) for batch, _ in request.buckets} & set(os.environ["DYING_BATCHES"].split(",")):
        print("[ERROR] out of memory on the device", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return compile_engine(trt, request, say)


if __name__ == "__main__":
    tensorrt_worker.compile_engine = compile_or_die
    sys.exit(tensorrt_worker.main())
