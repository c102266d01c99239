"""What an artifact is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from engines.tokenization import Tokens
from pipeline.graph.precision import Precision, reference_in
from pipeline.graph.stages import StageSpec
from pipeline.model.reference import Reference
from pipeline.model.transformer import PrunedTransformer


@dataclass(frozen=True)
class Expected:
    """A model cut into stages, and what PyTorch computes for the texts of the gates.

    precision: the number format of the stage graphs.
    """

    model: PrunedTransformer
    specs: Sequence[StageSpec]
    reference: Reference
    precision: Precision = "fp32"

    @property
    def samples(self) -> Sequence[Tokens]:
        """The texts of the gates."""
        return self.reference.samples

    @cached_property
    def narrow(self) -> PrunedTransformer | None:
        """PyTorch's model in the precision of the graphs; None in fp32, where it is the model itself."""
        return None if self.precision == "fp32" else reference_in(self.model, self.precision)

    @cached_property
    def rounded(self) -> Reference | None:
        """What `narrow` computes for the texts; None in fp32."""
        return None if self.narrow is None else Reference.of(self.narrow, self.samples)
