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

from plugins.library import NAME, NAMESPACE, VERSION, PluginError, load_into

GOOD = {"threshold": 0.25, "capacity": 64, "protect_first": 1}

# A value is a number, in the type that the contract wants, or (array, type name).
BAD: dict[str, dict] = {
    "no_threshold": {"capacity": 64, "protect_first": 1},
    "nan_threshold": {**GOOD, "threshold": np.nan},
    "double_threshold": {**GOOD, "threshold": (np.float64([0.25]), "FLOAT64")},
    "integer_threshold": {**GOOD, "threshold": (np.int32([1]), "INT32")},
    "two_thresholds": {**GOOD, "threshold": (np.float32([0.25, 0.5]), "FLOAT32")},
    "negative_capacity": {**GOOD, "capacity": -1},
    "huge_capacity": {**GOOD, "capacity": 4097},
    "wide_capacity": {**GOOD, "capacity": (np.int64([64]), "INT64")},
    "protect_first_is_two": {**GOOD, "protect_first": 2},
    "unknown_field": {**GOOD, "treshold": (np.float32([0.25]), "FLOAT32")},
}


def probe(trt, library: Path, folder: Path) -> dict:
    """What the tests look at."""

    def fields(values: dict):
        entries = []
        for name, value in values.items():
            if not isinstance(value, tuple):
                wanted = (np.float32, "FLOAT32") if name == "threshold" else (np.int32, "INT32")
                value = (wanted[0]([value]), wanted[1])
            entries.append(trt.PluginField(name, value[0], getattr(trt.PluginFieldType, value[1])))
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
