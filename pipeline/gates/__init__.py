"""The gates of a build: what must hold before an artifact is published, and what `pipeline.parity` checks again."""

from pipeline.gates.attention import attention_gate
from pipeline.gates.decisions import decision_parity
from pipeline.gates.fused import fused_decisions, fused_parity
from pipeline.gates.metric import task_metric
from pipeline.gates.numeric import numeric_parity
from pipeline.gates.reference import Reference, reference_parity

__all__ = [
    "Reference",
    "attention_gate",
    "decision_parity",
    "fused_decisions",
    "fused_parity",
    "numeric_parity",
    "reference_parity",
    "task_metric",
]
