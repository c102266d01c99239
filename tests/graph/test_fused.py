"""The graph of all stages: made static with any capacities, it is PyTorch's chain of stages with as much room."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from engines.backends import BACKENDS
from engines.backends.base import EngineOptions
from engines.buckets import Bucket
from engines.stages import FIRST_INPUTS, fused_outputs
from pipeline.graph.evaluate import GraphSession
from pipeline.graph.export import export_stage
from pipeline.graph.fused import chain_compactions, fuse_graphs
from pipeline.graph.stages import Stage, cut_stages, decision_layers
from tests.graph.small import random_batch, small_model

METHODS = ("ltp", "transkimmer")
LENGTHS = (11, 1, 20)
ROOMS = {"ltp": [(20, 20), (12, 12), (9, 3), (1, 1)], "transkimmer": [(20, 20), (14, 9), (1, 1)]}


def stages_of(method: str) -> list[Stage]:
    model = small_model(method, layers=2)
    return [Stage(model, spec) for spec in cut_stages(model, decision_layers(model))]


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The fused graph of a method's small model, cut at both of its decisions."""

    @lru_cache
    def make(method: str) -> Path:
        folder = tmp_path_factory.mktemp(method)
        paths = []
        for stage in stages_of(method):
            paths.append(folder / f"{stage.spec.name}.onnx")
            export_stage(stage, stage.model.config, paths[-1])
        fuse_graphs(paths, folder / "fused.onnx")
        return folder / "fused.onnx"

    return make


@torch.no_grad()
def expected(method: str, batch: tuple[Tensor, ...], rooms: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What PyTorch's stages give, each on as many rows of the one before as there is room for."""
    found, inputs = {}, batch
    for index, stage in enumerate(stages_of(method)):
        outputs = dict(zip(stage.output_names, stage(*inputs), strict=True))
        kind = "final" if stage.spec.last else "packed"
        alive, position = outputs[f"{kind}_alive"], outputs[f"{kind}_position"]
        if stage.spec.last:
            found["logits"] = outputs["logits"].numpy()
        else:
            room = rooms[index]
            alive, position = alive[:, :room], position[:, :room]
            found[f"count.{index}"] = outputs["count"].numpy()
            inputs = (outputs["packed"][:, :room], alive, position)
        found[f"survivors.{index}"] = torch.where(alive > 0, position, -1).numpy()
    return found


@pytest.mark.parametrize("method", METHODS)
def test_the_graph_is_valid_and_symbolic_and_holds_the_operator_once_per_cut(fused, method: str) -> None:
    model = onnx.load(fused(method))
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == list(FIRST_INPUTS)
    assert [value.name for value in model.graph.output] == list(fused_outputs(2))
    assert all(dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim)
    nodes = [node for node in model.graph.node if node.domain == "skimrt"]
    layers = decision_layers(small_model(method, layers=2))
    thresholds = [next(a.f for a in node.attribute if a.name == "threshold") for node in nodes]
    assert thresholds == [np.float32(small_model(method, layers=2).pruner.threshold(layer)) for layer in layers]
    assert [function.name for function in model.functions] == ["TokenCompact"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lengths", [(5,), (9, 30, 2)])
def test_with_room_for_everything_it_runs_at_any_shape(fused, method: str, lengths: tuple[int, ...]) -> None:
    batch, longest = random_batch(lengths), max(lengths)
    found = GraphSession(fused(method))({n: v.numpy() for n, v in zip(FIRST_INPUTS, batch, strict=True)})
    compare(found, expected(method, batch, (longest, longest)))


@pytest.mark.parametrize("provider", [backend.provider for backend in BACKENDS if backend.target == "cpu"])
@pytest.mark.parametrize(("method", "rooms"), [(method, rooms) for method in METHODS for rooms in ROOMS[method]])
def test_made_static_it_has_as_much_room_as_it_is_given(
    fused, tmp_path: Path, provider: str, method: str, rooms: tuple[int, ...]
) -> None:
    backend = next(backend for backend in BACKENDS if backend.provider == provider)
    if (reason := backend.available()) is not None:
        pytest.skip(reason)
    bucket = Bucket(batch=len(LENGTHS), length=max(LENGTHS))
    backend.build(fused(method), bucket, tmp_path / "engine.onnx", EngineOptions(capacities=rooms))
    batch = random_batch(LENGTHS)
    engine = backend.load(tmp_path / "engine.onnx", threads=1)
    found = engine({name: value.numpy() for name, value in zip(FIRST_INPUTS, batch, strict=True)})
    wanted = expected(method, batch, rooms)
    compare(found, wanted)
    if rooms == (1, 1):
        assert (wanted["count.0"] > 1).any()  # otherwise nothing overflowed


def compare(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys() == set(fused_outputs(2))
    for name, value in wanted.items():
        assert found[name].shape == value.shape and found[name].dtype == value.dtype, name
        np.testing.assert_allclose(found[name], value, atol=1e-4 if name == "logits" else 0, rtol=0, err_msg=name)


def test_a_chain_of_compactions_changes_nothing_that_is_packed_already(tmp_path: Path) -> None:
    chain_compactions(3, 4, tmp_path / "chain.onnx")
    hidden = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    hidden[:, 3:] = -1.0  # a score below the threshold of 0
    hidden[:, :3, 0] = 1.0
    position = np.arange(5, dtype=np.int32)[None].repeat(2, 0)
    found = GraphSession(tmp_path / "chain.onnx")(
        {"hidden": hidden, "alive": np.ones((2, 5), np.int32), "position": position}
    )
    assert np.array_equal(found["packed"], hidden) and np.array_equal(found["packed_position"], position)
    assert found["count"].tolist() == [3, 3] and found["packed_alive"].sum() == 6
