"""The gates of a build: what must hold before an artifact is published, and what `pipeline.parity` checks again."""

from pipeline.gates.decisions import decision_parity
from pipeline.gates.metric import int8_changed, int8_metric, task_metric
from pipeline.gates.numeric import numeric_parity
from pipeline.gates.planned import attention_gate, int8_products_gate
from pipeline.gates.provenance import Origin, bound_engines, provenance
from pipeline.gates.reference import reference_parity
from pipeline.model.reference import Reference

__all__ = [
    "Origin",
    "Reference",
    "attention_gate",
    "bound_engines",
    "decision_parity",
    "int8_changed",
    "int8_metric",
    "int8_products_gate",
    "numeric_parity",
    "provenance",
    "reference_parity",
    "task_metric",
]
