"""An engine of the target `torch` on a device: AOTInductor's models, loaded when they are asked for."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.torch_file import Run, read_engine
from engines.buckets import Bucket
from engines.errors import InputError, SkimError


class TorchPackage:
    """An engine's package on a device: its models, loaded one by one, and the weights that all of them use.

    Raises InputError for what is no such engine.
    """

    def __init__(self, engine_file: Path, content: np.ndarray, device: str) -> None:
        import torch

        self.file, self._device = engine_file, device
        self.contents, stored, package = read_engine(engine_file, content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arrays that cannot be written; nobody writes into weights
            found = {name: torch.from_numpy(weight.values) for name, weight in stored.items()}
        narrow = {name for name, weight in stored.items() if weight.dtype == "BF16"}
        self._weights = {n: (v.view(torch.bfloat16) if n in narrow else v).to(device) for n, v in found.items()}
        # The library loads from files only. This one is nobody else's, and goes with the engine.
        self._folder = tempfile.TemporaryDirectory(prefix="skimrt-torch-")
        self._path = Path(self._folder.name) / "package.pt2"
        self._path.write_bytes(package.data)
        self._models: dict[str, Run] = {}

    def model(self, bucket: Bucket) -> Run:
        """What runs a bucket: called with a list of tensors, it returns one. Raises InputError without one."""
        import torch
        from torch.export.pt2_archive._package import AOTICompiledModel

        described = self.contents.model_for(bucket)
        if described is None:
            raise InputError(f"{self.file}: it has no profile {bucket}; build the artifact again")
        if described.name not in self._models:
            try:
                loader = torch._C._aoti.AOTIModelPackageLoader(str(self._path), described.name, False, 1, -1)
                model = AOTICompiledModel(loader)
                weights = {name: self._weights[name] for name in model.get_constant_fqns()}
                model.load_constants(weights, check_full_update=True, user_managed=True)
            except (RuntimeError, KeyError) as error:
                raise InputError(f"{self.file}: PyTorch cannot load {described.name!r}: {error}") from None
            self._models[described.name] = _reported(loader.boxed_run, self.file)
        return self._models[described.name]


def _reported(run: Run, engine_file: Path) -> Run:
    """The same, but raises SkimError for what PyTorch refuses while it runs, such as too little memory."""

    def reported(tensors: list[Any]) -> Sequence[Any]:
        try:
            return run(tensors)
        except RuntimeError as error:
            raise SkimError(
                f"{engine_file}: PyTorch cannot run it: {error}; if memory is short use fewer streams or buckets"
            ) from error

    return reported
