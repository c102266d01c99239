"""The kit's steps on the tests' stand-in device, so that it still works on the day that a GPU is lent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import e2e, probe, rtx, stage_times
from pipeline.model import save_checkpoint
from tests.conftest import LABELS, LONGEST
from tests.graph.small import small_model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """A dense model and LTP in two stages, as the folder of the shipped ones has them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for method in ("dense", "ltp"):
        model = small_model(method)
        save_checkpoint(model.config, dict(model.state_dict()), folder / method, tiny_tokenizer)
    return folder


def written(folder: Path) -> Path:
    """A file of labelled texts."""
    data, labels = folder / "data.tsv", LABELS["classification"]
    data.write_text("".join(f"{labels[n % 2]}\tw{4 + n} w9 w{20 + n} w7\n" for n in range(6)), "utf-8")
    return data


def run_e2e(out: Path, *arguments: object) -> tuple[int, dict]:
    """The exit code and the record of a rehearsal."""
    given = ["--host", "--precision", "fp32", "--rounds", "1", "--out", out, *arguments]
    code = e2e.run(e2e.parser().parse_args(list(map(str, given))))
    return code, json.loads(out.read_bytes())


def assert_whole(record: dict, batches: list[int], methods: list[str]) -> None:
    """Every model was built, passed its gates and was timed both ways; nothing failed."""
    assert record["failed"] == {} and record["rehearsal"] and list(record["models"]) == methods
    for method, found in record["models"].items():
        gates = {name.partition(" (")[0]: gate["status"] for name, gate in found["gates"].items()}
        assert gates["numeric: engines"] == gates["decisions"] == gates["reference"] == "PASSED", method
    keys = [(t["model"], t["batch"], t["graphs"]) for t in record["timings"]]
    assert keys == [(method, batch, graphs) for batch in batches for method in methods for graphs in (True, False)]
    assert all(t["seconds"] > 0 and ("device_seconds" in t) == t["graphs"] for t in record["timings"])


def test_end_to_end(checkpoints: Path, tmp_path: Path, capsys) -> None:
    """Three models are asked for; one is not there: that is told and written, and the rest is measured."""
    data = written(tmp_path)
    sizes = ("--batches", "1,2", "--lengths", LONGEST, "--texts", 6, "--samples", 4)
    where = ("--checkpoints", checkpoints, "--data", data, "--methods", "dense,topk,ltp")
    code, record = run_e2e(tmp_path / "e2e.json", *where, *sizes)
    assert code == 3 and list(record["failed"]) == ["build of topk"]
    assert record["failed"]["build of topk"].startswith("Traceback")
    assert_whole({**record, "failed": {}}, [1, 2], ["dense", "ltp"])
    two = [t for t in record["timings"] if t["graphs"] and t["model"] == "ltp"]
    assert all(any(name.startswith("unit 1 ") for name in t["engines_us"]) and t["calls"] > 0 for t in two)
    assert record["models"]["ltp"]["flops_ratio"] > record["models"]["dense"]["flops_ratio"] == 1
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith(("dense  ", "ltp  "))]) == 8
    assert any(line.startswith("FAILED build of topk: ") for line in lines)


@pytest.mark.slow
def test_end_to_end_with_the_shipped_models(tmp_path: Path) -> None:
    sizes = ("--batches", "2", "--lengths", "128,256", "--texts", 6, "--samples", 2)
    code, record = run_e2e(tmp_path / "e2e.json", *sizes)
    assert code == 0
    assert_whole(record, [2], ["dense", "ltp", "transkimmer"])


@pytest.mark.slow
def test_end_to_end_with_packages_of_aotinductor(checkpoints: Path, tmp_path: Path) -> None:
    sizes = ("--batches", "2", "--lengths", LONGEST, "--texts", 6, "--samples", 4, "--data", written(tmp_path))
    code, record = run_e2e(
        tmp_path / "e2e.json", "--mode", "aoti", "--checkpoints", checkpoints, "--methods", "dense,ltp", *sizes
    )
    assert code == 0
    assert_whole(record, [2], ["dense", "ltp"])


def test_stage_times(tmp_path: Path, capsys) -> None:
    out = tmp_path / "times.json"
    arguments = ["--host", "--models", "tiny", "--batches", "1,2", "--lengths", "8,16", "--out", str(out)]
    assert stage_times.run(stage_times.parser().parse_args(arguments)) == 0
    record = json.loads(out.read_bytes())
    assert [(t["batch"], t["length"]) for t in record["times"]] == [(1, 8), (1, 16), (2, 8), (2, 16)]
    assert all(t["microseconds"] > 0 for t in record["times"]) and record["failed"] == []
    assert stage_times.run(stage_times.parser().parse_args([*arguments, "--seconds", "0"])) == 0
    assert "not run" in capsys.readouterr().out


def test_the_probe_answers_on_any_machine(tmp_path: Path) -> None:
    out = tmp_path / "probe.json"
    assert probe.run(probe.parser().parse_args(["--out", str(out)])) == 0
    record = json.loads(out.read_bytes())
    assert torch.__version__.startswith(record["packages"]["torch"])
    assert {"openvino", "tensorrt-rtx"} <= set(record["skimrt"]["backends"])


def test_a_case_of_tensorrt_rtx_tells_how_far_it_came() -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install tensorrt-rtx-cu13")
    found = rtx.try_case("8.9")
    assert found["parsed"] and found["built"] and "SM89" in found["known"]
    if not torch.cuda.is_available():
        assert "right" not in found
