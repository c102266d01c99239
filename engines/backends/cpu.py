"""What the backends of the target `cpu` share: their engine files, which every provider compiles when it loads them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from engines.backends.base import PLAIN, Backend, Built, EngineOptions, Report
from engines.backends.cpu_graph import write_cpu_graph
from engines.buckets import Bucket


class CpuBackend(Backend):
    """Through the package that is called as the provider is."""

    target, precisions = "cpu", ("fp32", "bf16", "int8")
    on_cpu = True

    def available(self) -> str | None:
        if importlib.util.find_spec(self.provider) is None:
            return f"the package {self.provider} is not installed; pip install 'skimrt[runtime]'"
        return None

    def build(
        self,
        stage_graph: Path,
        buckets: Sequence[Bucket],
        out: Path,
        options: EngineOptions = PLAIN,
        report: Report | None = None,
    ) -> Built:
        """Of the buckets only the least and the greatest sizes matter: a provider runs any shape between."""
        write_cpu_graph(stage_graph, buckets, out)
        return Built()
