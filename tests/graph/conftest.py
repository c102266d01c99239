"""Here graphs are traced in every test: they are what is tested."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.exports import KeptExports


@pytest.fixture(autouse=True, scope="package")
def every_export_traces(kept_exports: KeptExports) -> Iterator[None]:
    """As outside of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", kept_exports.export)
        yield
