"""The gates of a build: what must hold before an artifact is published, and what `pipeline.parity` checks again."""

from pipeline.gates.decisions import decision_parity
from pipeline.gates.metric import task_metric
from pipeline.gates.numeric import numeric_parity
from pipeline.gates.planned import attention_gate, int8_products_gate
from pipeline.gates.reference import reference_parity
from pipeline.model.reference import Reference

__all__ = [
    "Reference",
    "attention_gate",
    "decision_parity",
    "int8_products_gate",
    "numeric_parity",
    "reference_parity",
    "task_metric",
]
