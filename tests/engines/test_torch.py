"""The target torch: its engine files, whom an engine is bound to, and what it refuses. Builds: test_torch_build.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engines.backends import choose_backend, choose_builder, torch_aoti
from engines.backends.base import PLAIN, EngineOptions
from engines.backends.plugin import use_kernel
from engines.backends.torch_aoti import TorchCpuBackend, TorchCudaBackend
from engines.backends.torch_compiler import compile_program, models_for
from engines.backends.torch_file import Contents, Model, Stored, TensorOf, read_engine, write_engine
from engines.binding import Binding, Gpu
from engines.buckets import Bucket
from engines.errors import InputError, TargetError
from engines.files import sha256
from engines.machine import instruction_sets
from pipeline.builder.config import BuildConfig, read_build_config
from pipeline.builder.target import BuildTarget
from plugins.library import ENVIRONMENT_VARIABLE, FILE_NAME

GPU = Gpu("NVIDIA H100", "9.0", "13.0", "580.1")
ON_GPU = Binding(library="torch", version="2.13.0", compute_capabilities=("9.0",), gpu=GPU.name, driver=GPU.driver)
CONTENTS = Contents(
    models=(Model(name="all", batch=(1, 8), length=(4, 32)),),
    inputs=(TensorOf(name="hidden", dtype="BF16", shape=("batch", "length", 6)),),
    outputs=(TensorOf(name="count", dtype="I32", shape=("batch",)),),
)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.sampled_from(["F32", "BF16", "I64", "U8", "BOOL"]), st.integers(0, 9)), max_size=6),
    package=st.binary(min_size=1, max_size=99),
)
def test_an_engine_file_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[str, int]], package: bytes
) -> None:
    types = {"F32": np.float32, "BF16": np.uint16, "I64": np.int64, "U8": np.uint8, "BOOL": np.bool_}
    weights = {f"w.{n}": Stored(name, np.arange(size).astype(types[name])) for n, (name, size) in enumerate(sizes)}
    path = tmp_path_factory.mktemp("engine") / "stage_0.safetensors"
    write_engine(path, CONTENTS, weights, package)
    contents, found, bytes_of_package = read_engine(path, np.frombuffer(path.read_bytes(), np.uint8))
    assert contents == CONTENTS and bytes_of_package.tobytes() == package and found.keys() == weights.keys()
    for name, stored in weights.items():
        assert found[name].dtype == stored.dtype and np.array_equal(found[name].values, stored.values)


def test_an_engine_file_is_what_the_safetensors_package_reads(tmp_path: Path) -> None:
    import safetensors.numpy as safetensors

    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_engine(tmp_path / "e.safetensors", CONTENTS, {"w": Stored("F32", weight)}, b"package")
    assert np.array_equal(safetensors.load_file(tmp_path / "e.safetensors")["w"], weight)


@pytest.mark.parametrize("keep", [0, 7, 8, 60, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "e.safetensors"
    write_engine(path, CONTENTS, {"w": Stored("F32", np.zeros(3, np.float32))}, b"package")
    with pytest.raises(InputError, match=r"e\.safetensors: expected an engine of the target torch"):
        read_engine(path, np.frombuffer(path.read_bytes()[:keep], np.uint8))


def test_a_tensor_outside_of_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    write_engine(path, CONTENTS, {"w": Stored("F32", np.zeros(3, np.float32))}, b"package")
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["w"]["data_offsets"] = [1 << 40, (1 << 40) + 12]
    text = json.dumps(header).encode()
    with pytest.raises(InputError, match="a tensor"):
        read_engine(path, np.frombuffer(len(text).to_bytes(8, "little") + text + content[8 + size :], np.uint8))


def test_a_cpu_has_one_model_for_all_buckets_and_a_gpu_one_for_each() -> None:
    buckets = [Bucket(batch=1, length=16), Bucket(batch=8, length=128)]
    (whole,) = models_for("cpu", buckets)
    assert (whole.batch, whole.length) == ((1, 8), (16, 128))
    assert whole.runs(Bucket(batch=3, length=20)) and not whole.runs(Bucket(batch=1, length=8))
    each = models_for("cuda", buckets)
    assert [model.runs(bucket) for model in each for bucket in buckets] == [True, False, False, True]
    assert len({model.name for model in each}) == 2


def test_a_binding_is_for_a_gpu_or_a_cpu() -> None:
    with pytest.raises(ValidationError, match="of a GPU, or the instructions of a CPU"):
        Binding(library="torch", version="2.13.0")
    with pytest.raises(ValidationError, match="of a GPU, or the instructions of a CPU"):
        Binding(library="torch", version="2.13.0", cpu="x86_64", compute_capabilities=("9.0",))


def test_an_engine_runs_where_its_instructions_are(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, here = TorchCpuBackend(), TorchCpuBackend().binding(PLAIN)
    assert backend.mismatch(here) is None and here.cpu is not None and here.compiler is not None
    assert here.cpu.split() == list(instruction_sets())
    other = here.model_copy(update={"cpu": f"{here.cpu} avx1024 amx_fp64"})
    assert other.machine != here.machine
    assert "compiled for a CPU with avx1024, amx_fp64, which this one (" in str(backend.mismatch(other))
    fewer = here.model_copy(update={"cpu": here.cpu.split()[0]})
    assert backend.mismatch(fewer) is None
    older = here.model_copy(update={"version": "2.0.0"})
    assert str(backend.mismatch(older)).startswith("built by torch 2.0.0, here is ")
    assert backend.mismatch(ON_GPU) == "built for NVIDIA H100 (compute capability 9.0), and is to run on a CPU"
    assert "compiled for a CPU" in str(here.mismatch(here.version, GPU, None))
    engine = Path("engine.safetensors")
    with pytest.raises(TargetError, match=r"avx1024.*build the artifact again on this machine"):
        backend.load(engine, None, other, lambda path: pytest.fail("nothing is read"))
    with pytest.raises(InputError, match="expected an engine bound to torch on cpu"):
        backend.load(engine, None, ON_GPU)


def test_instructions_are_those_of_the_processor(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text("processor : 0\nflags : fpu sse4_2 avx2 avx512_bf16 hypervisor\n")
    assert instruction_sets(tmp_path / "x86")[1:] == ("avx2", "avx512_bf16", "sse4_2")
    (tmp_path / "arm").write_text("Features : sve asimd\n")
    assert instruction_sets(tmp_path / "arm")[1:] == ("asimd", "sve")
    assert len(instruction_sets(tmp_path / "none")) == 1


def test_the_provider_with_engines_in_the_artifact_runs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchCudaBackend, "available", lambda self: None)
    on_cpu, built = TorchCpuBackend().binding(PLAIN), {"torch": ["fp32"]}
    assert choose_backend("auto", built=built, bindings=[("torch", on_cpu)]).provider == "torch-cpu"
    assert choose_backend("auto", built=built, bindings=[("torch", ON_GPU)]).provider == "torch-cuda"
    assert choose_builder("torch", provider="torch-cpu").provider == "torch-cpu"
    with pytest.raises(TargetError, match="torch through torch-cuda: the artifact holds no engines for it"):
        choose_backend("torch", "torch-cuda", built, [("torch", on_cpu)])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_precision_that_a_cpu_does_not_have_is_refused(precision: str) -> None:
    config = BuildConfig(target="torch", device="cpu", precision=precision)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"precision '{precision}': expected one of fp32, bf16"):
        BuildTarget.of(config)


def test_an_option_of_a_gpu_library_is_refused() -> None:
    with pytest.raises(InputError, match="plugin: the target torch has no such option"):
        BuildTarget.of(BuildConfig(target="torch", device="cpu", plugin=True))
    with pytest.raises(InputError, match="--export-only: the target torch is built where it is to run"):
        BuildTarget.of(BuildConfig(target="torch", device="cpu", export_only=True))


def test_a_device_of_torch_is_no_data_sheet_and_the_other_way_round() -> None:
    config = BuildConfig(target="torch", device="cpu")
    assert (config.torch_device, config.sheet) == ("cpu", None)
    planned = BuildConfig(target="cpu", device="cpu")
    assert (planned.torch_device, planned.sheet) == (None, "cpu")
    with pytest.raises(InputError, match="device: cuda is one of the target torch, found target cpu"):
        read_build_config(None, {"device": "cuda"})


def test_what_is_missing_ends_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(TargetError, match=r"C\+\+ compiler no-such-compiler is not installed.*apt-get") as error:
        choose_builder("torch", provider="torch-cpu")
    assert error.value.exit_code == 4 and "--export-only" not in str(error.value)
    monkeypatch.setattr(torch_aoti, "_missing_torch", lambda: "the package torch is not installed (pip install x)")
    assert TorchCpuBackend().available() == "the package torch is not installed (pip install x)"
    with pytest.raises(TargetError, match="target torch: the package torch is not installed"):
        TorchCpuBackend().binding(PLAIN)


def test_no_gpu_is_said_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_aoti, "find_gpu", lambda: "no NVIDIA driver is installed")
    assert TorchCudaBackend().available() == "no NVIDIA driver is installed"
    assert TorchCudaBackend().mismatch(ON_GPU) == "no NVIDIA driver is installed"
    with pytest.raises(TargetError, match="no NVIDIA driver"):
        TorchCudaBackend().binding(PLAIN)


def test_an_engine_on_a_gpu_is_bound_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_aoti, "find_gpu", lambda: GPU)
    backend, bound = TorchCudaBackend(), TorchCudaBackend().binding(PLAIN)
    assert (bound.gpu, bound.cuda, bound.driver, bound.compute_capabilities) == (GPU.name, "13.0", "580.1", ("9.0",))
    assert backend.mismatch(bound) is None and backend.is_for(bound) and not TorchCpuBackend().is_for(bound)
    monkeypatch.setattr(torch_aoti, "find_gpu", lambda: replace(GPU, name="NVIDIA L4", compute_capability="8.9"))
    assert "built for NVIDIA H100 (compute capability 9.0), here is NVIDIA L4" in str(backend.mismatch(bound))


def test_an_engine_with_our_kernel_is_bound_to_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch_aoti, "find_gpu", lambda: GPU)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / FILE_NAME))
    backend = TorchCudaBackend()
    with pytest.raises(TargetError, match=r"plugin library .*: expected a file, found none"):
        backend.binding(EngineOptions(plugin=True))
    (tmp_path / FILE_NAME).write_bytes(b"plugin")
    bound = backend.binding(EngineOptions(plugin=True))
    assert bound.plugin == sha256(tmp_path / FILE_NAME) and backend.mismatch(bound) is None
    assert backend.binding(PLAIN).plugin is None
    with pytest.raises(TargetError, match="expected an ELF shared library"):  # what is bound is used, or refused
        use_kernel()
    (tmp_path / FILE_NAME).unlink()
    assert str(backend.mismatch(bound)).endswith(", here is none")


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stage_0.pt2").write_bytes(b"no program")
    with pytest.raises(InputError, match=r"stage_0\.pt2: expected an exported program of PyTorch"):
        compile_program(
            tmp_path / "stage_0.pt2", tmp_path / "out", "cpu", [Bucket(batch=1, length=8)], lambda message: True
        )
