"""What every device promises: the one of host memory, CUDA over stand-ins, and CUDA on a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engines import Runner
from engines.artifact import Artifact, digest_files
from engines.backends.base import Backend, EngineOptions
from engines.backends.cuda_device import CudaDevice, cuda_device, missing_cuda
from engines.backends.device import Device, DeviceArray, Tensor
from engines.backends.device_engine import DeviceProfile, _from_bfloat16, _to_bfloat16
from engines.backends.tensorrt import TensorRtBackend
from engines.backends.tensorrt_rtx import TensorRtRtxBackend
from engines.buckets import Bucket
from engines.device_rows import Resident, Rows
from engines.errors import TargetError
from engines.manifest import EngineRecord
from engines.manifest_file import write_manifest
from plugins.library import NAME, NAMESPACE, VERSION
from tests.engines.driving import check
from tests.engines.fake_cuda import FakeRuntime
from tests.engines.host_device import HostDevice, plain_regroup, view
from tests.engines.toy import BUCKETS, Toy, random_tokens

INT32, BYTES = np.dtype(np.int32), np.dtype(np.uint8)


@pytest.fixture(params=["host memory", "stand-ins for CUDA", pytest.param("CUDA", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Device:
    if request.param == "host memory":
        return HostDevice(plain_regroup)
    if request.param == "CUDA":
        reason = missing_cuda()
        if reason is not None:
            pytest.skip(reason)
        return cuda_device()
    return CudaDevice(FakeRuntime(HostDevice(plain_regroup)), plain_regroup)  # type: ignore[arg-type]


def put(device: Device, values: np.ndarray) -> DeviceArray:
    array, stream = device.array(Tensor(values.shape, values.dtype)), device.stream()
    staging = device.pinned(values.nbytes)
    staging[...] = np.frombuffer(values.tobytes(), np.uint8)
    stream.upload(staging, array.address)
    stream.synchronize()
    return array


def get(device: Device, array: DeviceArray) -> np.ndarray:
    staging, stream = device.pinned(array.tensor.nbytes), device.stream()
    stream.download(array.address, staging)
    stream.synchronize()
    return staging.view(array.tensor.dtype).reshape(array.tensor.shape).copy()


def test_memory_is_aligned_and_zero(device: Device) -> None:
    for nbytes in (1, 100, 4096):
        array = device.array(Tensor((nbytes,), BYTES))
        assert array.address % 256 == 0 and not get(device, array).any()
        assert not device.pinned(nbytes).any()


def test_a_copy_each_way(device: Device) -> None:
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float16)
    np.testing.assert_array_equal(get(device, put(device, values)), values)


def test_streams_wait_for_events_and_the_host_too(device: Device) -> None:
    first, second, event, end = device.stream(), device.stream(), device.event(), device.event()
    end.synchronize()  # an event that was never recorded has passed
    array = device.array(Tensor((1 << 16,), INT32))
    ones, result = device.pinned(array.tensor.nbytes), device.pinned(array.tensor.nbytes)
    ones.view(INT32)[...] = 1
    first.upload(ones, array.address)
    first.record(event)
    second.wait(event)
    second.download(array.address, result)
    second.record(end)
    end.synchronize()
    assert (result.view(INT32) == 1).all()


def test_a_graph_runs_when_it_is_launched_and_as_often(device: Device) -> None:
    source, target = put(device, np.arange(4, dtype=INT32)), device.pinned(16)
    stream = device.stream()
    stream.download(source.address, target)
    stream.synchronize()
    target[...] = 0
    graph = stream.capture(lambda: stream.download(source.address, target))
    stream.synchronize()
    assert not target.any()
    for _ in range(2):
        target[...] = 0
        stream.launch(graph)
        stream.synchronize()
        assert target.view(INT32).tolist() == [0, 1, 2, 3]


def test_regroup_moves_rows_and_clears_the_rest(device: Device) -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 4, 6)).astype(np.float16)
    alive, position = rng.integers(0, 2, (3, 4)).astype(np.int32), np.arange(12, dtype=np.int32).reshape(3, 4)
    source = Rows(put(device, hidden), put(device, alive), put(device, position))
    shapes = (Tensor((2, 5, 6), hidden.dtype), Tensor((2, 5), INT32), Tensor((2, 5), INT32))
    target = Rows(*(put(device, np.full(t.shape, 7, t.dtype)) for t in shapes))
    free = Resident(source, 0, 4).source
    free.hidden = None
    stream = device.stream()
    stream.regroup([Resident(source, 2, 4).source, free], target.target)
    stream.synchronize()
    found_hidden, found_alive, found_position = (get(device, a) for a in (target.hidden, target.alive, target.position))
    np.testing.assert_array_equal(found_hidden[0, :4], hidden[2])
    assert not found_hidden[0, 4].any() and not found_hidden[1].any()
    assert found_alive.tolist() == [[*alive[2], 0], [0] * 5]
    assert found_position.tolist() == [[8, 9, 10, 11, -1], [-1] * 5]


@given(arrays.arrays(np.float32, 20, elements=st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False)))
def test_bfloat16_is_rounded_as_everywhere(values: np.ndarray) -> None:
    expected = values.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(_to_bfloat16(values), expected.view(np.uint16))
    np.testing.assert_array_equal(_from_bfloat16(_to_bfloat16(values)), expected.astype(np.float32))


class Doubling:
    """An executable that doubles its bfloat16 input."""

    def __init__(self, device: HostDevice) -> None:
        self.device = device
        self.inputs = {"hidden": Tensor((2, 3), np.dtype(np.uint16))}
        self.outputs = {"packed": Tensor((2, 3), np.dtype(np.uint16))}
        self.bound: dict[str, int] = {}

    scratch_bytes = 0

    def execution(self, scratch: int, stream: int) -> Doubling:
        return self

    def bind(self, name: str, address: int) -> None:
        self.bound[name] = address

    def enqueue(self, stream: int) -> None:
        owner = next(s for s in self.device.streams if s.handle == stream)
        owner.put(self.double)

    def double(self) -> None:
        values = view(self.bound["hidden"], self.inputs["hidden"]).view(ml_dtypes.bfloat16)
        view(self.bound["packed"], self.outputs["packed"])[...] = (values * ml_dtypes.bfloat16(2)).view(np.uint16)


def test_an_engine_in_bfloat16_takes_and_gives_float32() -> None:
    device = HostDevice(plain_regroup)
    values = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    found = DeviceProfile(device, Doubling(device))({"hidden": values})
    assert found["packed"].dtype == np.float32
    np.testing.assert_allclose(found["packed"], 2 * values, rtol=2**-8)


def add_engines(path: Path, backend: Backend, options: EngineOptions, buckets: Sequence[Bucket]) -> list[EngineRecord]:
    """Compiles the units of a toy artifact for a GPU target."""
    manifest, records = Artifact.open(path).manifest, []
    for record in manifest.engines:
        file = f"engines/{backend.target}-fp32/{backend.engine_name(record.stage)}"
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        backend.build(_for_the_plugin(path / manifest.plan.graphs[record.stage]), buckets, path / file, options)
        values: dict[str, object] = {
            "target": backend.target,
            "file": file,
            "binding": backend.binding(options),
            "weights": None,
        }
        values["profiles"] = tuple(buckets)
        records.append(EngineRecord(**{**record.model_dump(), **values}))
    return records


def _for_the_plugin(graph: Path) -> Path:
    """The toy graph with the two attributes by which TensorRT finds the plugin, as the exporter writes them."""
    model = onnx.load(graph)
    for node in model.graph.node:
        if node.op_type == NAME and not any(attribute.name == "plugin_version" for attribute in node.attribute):
            values = {"plugin_namespace": NAMESPACE, "plugin_version": VERSION}
            node.attribute.extend(onnx.helper.make_attribute(*item) for item in values.items())
    onnx.save(model, graph)
    return graph


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("plugin", [True, False])
@pytest.mark.parametrize("head", ["classification", "tagging"])
@pytest.mark.parametrize("backend", [TensorRtBackend(), TensorRtRtxBackend()], ids=lambda backend: backend.target)
def test_toy_models_on_the_gpu(
    toy_artifact, tmp_path: Path, backend: Backend, head: str, plugin: bool, graphs: bool
) -> None:
    """Engines that TensorRT builds here, through the ordinary runner, against the numpy reference."""
    options = replace(backend.options_here(), plugin=plugin)
    reason = backend.cannot_run(options)
    if reason is not None:
        pytest.skip(reason)
    path, toy = tmp_path / "artifact", Toy(head=head)
    shutil.copytree(toy_artifact(toy), path)
    records = add_engines(path, backend, options, BUCKETS)
    manifest = Artifact.open(path, verify=False).manifest
    write_manifest(path, manifest.model_copy(update={"engines": records, "files": digest_files(path)}))
    samples = random_tokens(0, 70)
    check(toy, samples, Runner(path, backend.target, cuda_graphs=graphs).run_tokens(samples))


@pytest.mark.parametrize("plugin", [True, False])
def test_the_toy_models_of_that_test_can_be_built(toy_artifact, tmp_path: Path, plugin: bool) -> None:
    """By TensorRT-RTX, which needs no GPU for it: so on a GPU only running them is new."""
    backend = TensorRtRtxBackend()
    reason = backend.missing_to_build()
    if reason is not None:
        pytest.skip(reason)
    path = tmp_path / "artifact"
    shutil.copytree(toy_artifact(Toy(head="tagging")), path)
    try:
        records = add_engines(path, backend, EngineOptions(plugin=plugin), BUCKETS[-1:])
    except TargetError as error:  # no plugin library
        pytest.skip(str(error))
    assert len(records) == 4 and all((path / record.file).stat().st_size for record in records)
