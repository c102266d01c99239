"""Uses the plugin library in the registry of one TensorRT and prints what happened, as JSON.

A process of its own for each: two TensorRT libraries in one process share symbols.

    python -m tests.plugins.registry_probe MODULE LIBRARY FOLDER
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import yaml

from plugins.library import NAME, NAMESPACE, VERSION, PluginError, load_into
from tests.plugins.make_token_compact_cases import PATH as CASES

CONTRACT = yaml.safe_load(CASES.with_name("contract.yaml").read_text(encoding="utf-8"))
ATTRIBUTES = CONTRACT["attributes"]

# Values by attribute: a number, in the type that the contract wants, or (numbers, type name).
GOOD: dict = {"threshold": 0.25, "capacity": 64, "protect_first": 1}
AT_THE_EDGE = {
    f"{name}={spec[edge]}": {**GOOD, name: spec[edge]} for name, spec in ATTRIBUTES.items() for edge in ("min", "max")
}
BAD: dict[str, dict] = {
    f"{name}={value}": {**GOOD, name: value}
    for name, spec in ATTRIBUTES.items()
    if spec["type"] == "int32"
    for value in (spec["min"] - 1, spec["max"] + 1)
} | {
    "no_threshold": {"capacity": 64, "protect_first": 1},
    "nan_threshold": {**GOOD, "threshold": np.nan},
    "double_threshold": {**GOOD, "threshold": ([0.25], "FLOAT64")},
    "integer_threshold": {**GOOD, "threshold": ([1], "INT32")},
    "two_thresholds": {**GOOD, "threshold": ([0.25, 0.5], "FLOAT32")},
    "wide_capacity": {**GOOD, "capacity": ([64], "INT64")},
    "unknown_field": {**GOOD, "treshold": 0.25},
}


def probe(trt, library: Path, folder: Path) -> dict:
    """What the tests look at."""

    def fields(values: dict):
        entries = []
        for name, value in values.items():
            wanted = ATTRIBUTES.get(name, ATTRIBUTES["threshold"])["type"].upper()
            numbers, kind = value if isinstance(value, tuple) else ([value], wanted)
            array = np.array(numbers, dtype=kind.lower())
            entries.append(trt.PluginField(name, array, getattr(trt.PluginFieldType, kind)))
        return trt.PluginFieldCollection(entries)

    def create(values: dict, phase):
        return creator.create_plugin("node", fields(values), phase)

    def capabilities(plugin) -> list[str]:
        kinds = trt.PluginCapabilityType
        wanted = {"CORE": kinds.CORE, "BUILD": kinds.BUILD, "RUNTIME": kinds.RUNTIME}
        return [name for name, kind in wanted.items() if plugin.get_capability_interface(kind) is not None]

    registry, phases = trt.get_plugin_registry(), trt.TensorRTPhase
    creator = load_into(trt, library)
    found = {
        "version": trt.__version__,
        "field_names": {field.name: field.type.name for field in creator.field_names},
        "good_at_build": capabilities(create(GOOD, phases.BUILD)),
        "good_at_runtime": capabilities(create(GOOD, phases.RUNTIME)),
        "threshold_alone_at_build": create({"threshold": 0.25}, phases.BUILD) is not None,
        "threshold_alone_at_runtime": create({"threshold": 0.25}, phases.RUNTIME) is not None,
        "refused_edges": [name for name, values in AT_THE_EDGE.items() if create(values, phases.BUILD) is None],
        "accepted_bad": [name for name, values in BAD.items() if create(values, phases.BUILD) is not None],
        "second_load": load_into(trt, library).name,
        "second_registration": registry.load_library(str(library)) is not None,
    }
    other = shutil.copy(library, folder)
    try:
        load_into(trt, Path(other))
        found["other_library"] = "loaded"
    except PluginError as error:
        found["other_library"] = str(error)
    creators = [(c.name, c.plugin_namespace, c.plugin_version) for c in registry.all_creators]
    found["registered"] = creators.count((NAME, NAMESPACE, VERSION))
    found["can_be_got"] = registry.get_creator(NAME, VERSION, NAMESPACE) is not None
    return found


if __name__ == "__main__":
    module, library, folder = sys.argv[1:]
    print(json.dumps(probe(importlib.import_module(module), Path(library), Path(folder))))
