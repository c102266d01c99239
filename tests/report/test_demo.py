"""The demo's report: self-contained, escaped, and every figure in its row and column."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from engines.errors import InputError
from pipeline.report.demo import write_demo_report
from tests.report.page import HOSTILE, Page, assert_self_contained


@pytest.fixture
def record() -> dict:
    """What pipeline.demo would measure on 1,200 reviews, 1,000 of them timed in two chunks; figures all different."""

    def row(
        accuracy: float, keep: list[float], flops: float, timed: float, speedup: dict[str, float], cuts: int
    ) -> dict:
        return {
            "accuracy": accuracy,
            "keep_ratio_per_layer": keep,
            "retention": sum(keep) / len(keep),
            "flops_ratio": flops,
            "flops_ratio_timed": timed,
            "speedup": speedup,
            "stages": [[f"attend {stage}", f"decide {stage}", f"feed {stage}"] for stage in range(cuts)],
            "engines": 18 * cuts,
        }

    def timing(name: str, batch: int, chunks: list[float]) -> dict:
        rate = 1000 / sum(chunks)
        return {"name": name, "batch": batch, "seconds": sum(chunks), "texts_per_second": rate, "chunks": chunks}

    return {
        "reviews": 1200,
        "timed": 1000,
        "tokens": 187_654,
        "data": "f0cf8d0f0018" + "0" * 52,
        "methods": {
            "dense": row(0.8925, [1.0] * 6, 1.0, 1.0, {}, 1),
            "ltp": row(0.8867, [1.0, 0.91, 0.62, 0.41, 0.22, 0.14], 2.17, 2.20, {"1": 2.05, "8": 2.16}, 3),
            "transkimmer": row(0.8942, [0.83, 0.44, 0.31, 0.19, 0.19, 0.18], 2.53, 2.50, {"1": 1.75, "8": 2.41}, 4),
        },
        "machine": {"processor": "A CPU @ 2.70GHz", "cpus": 2, "python": "3.11.7"},
        "versions": {"torch": "2.13.0", "openvino": "2026.4.1"},
        "timings": [
            timing("dense", 1, [20.0, 21.0]),
            timing("ltp", 1, [10.0, 10.0]),
            timing("transkimmer", 1, [11.5, 11.9]),
            timing("dense", 8, [16.0, 17.0]),
            timing("ltp", 8, [7.5, 7.8]),
            timing("transkimmer", 8, [6.7, 7.0]),
        ],
    }


def test_the_demo_report_is_self_contained_and_says_what_was_measured(record: dict, tmp_path: Path) -> None:
    path = write_demo_report(record, tmp_path / "results")
    assert path == tmp_path / "results" / "report.html"
    page = Page(path)
    assert_self_contained(page)
    assert page.tags.count("svg") == 2
    expected = ["1,200 held-out reviews", "187,654 tokens", "156 in the mean", "first 1,000 were timed"]
    expected += [
        "2 cores of A CPU @ 2.70GHz",
        "torch 2.13.0",
        "f0cf8d0f0018…",
        "its buckets planned in the same way",
        "SKIPPED GPUs",
    ]
    assert [piece for piece in expected if piece not in page.text] == []


def test_every_figure_stands_in_its_row_and_column(record: dict, tmp_path: Path) -> None:
    page = Page(write_demo_report(record, tmp_path))
    assert page.cells("Accuracy") == ["0.8925", "0.8867", "0.8942"]
    assert page.cells("Drop") == ["–", "0.58", "−0.17"]
    assert page.cells("Tokens kept") == ["1.00", "0.55", "0.36"]
    assert page.cells("FLOPs ratio") == ["1.00×", "2.17×", "2.53×"]
    assert page.cells("Time ratio, batch 1") == ["1.00×", "2.05×", "1.75×"]
    assert page.cells("Time ratio, batch 8") == ["1.00×", "2.16×", "2.41×"]
    assert page.cells("Reviews per second, batch 8") == ["30.3", "65.4", "73.0"]
    assert page.cells("Stages") == ["1", "3", "4"]
    assert page.cells("Engines") == ["18", "54", "72"]
    assert page.cells("LTP") == ["1.00", "0.91", "0.62", "0.41", "0.22", "0.14"]


def test_the_headline_gives_speed_at_the_largest_batch_and_the_direction_of_the_drop(
    record: dict, tmp_path: Path
) -> None:
    text = Page(write_demo_report(record, tmp_path)).text
    assert "LTP runs 2.16× as fast as the dense model, accuracy 0.58 points lower;" in text
    assert "Transkimmer runs 2.41× as fast as the dense model, accuracy 0.17 points higher." in text


def test_shares_are_of_the_timed_reviews_and_those_too_small_are_marked(record: dict, tmp_path: Path) -> None:
    labels = Page(write_demo_report(record, tmp_path)).labels
    assert [item for item in labels if item[1].startswith("share")] == [
        ("", "share 0.93"),  # 2.05 / 2.20, wanted 0.90
        ("below", "share 0.70, below"),  # 1.75 / 2.50
        ("", "share 0.98"),  # 2.16 / 2.20, wanted 0.95
        ("", "share 0.96"),  # 2.41 / 2.50
    ]


def test_hostile_names_are_escaped_everywhere(record: dict, tmp_path: Path) -> None:
    hostile = copy.deepcopy(record)
    hostile["methods"][HOSTILE] = hostile["methods"].pop("ltp")
    hostile["methods"][HOSTILE]["stages"] = [[HOSTILE]]
    hostile["machine"]["processor"] = HOSTILE
    hostile["versions"][HOSTILE] = HOSTILE
    for timing in hostile["timings"]:
        timing["name"] = HOSTILE if timing["name"] == "ltp" else timing["name"]
    page = Page(write_demo_report(hostile, tmp_path))
    assert_self_contained(page)
    assert page.text.count(HOSTILE) >= 10


def test_the_same_record_gives_the_same_file(record: dict, tmp_path: Path) -> None:
    one, other = write_demo_report(record, tmp_path / "1"), write_demo_report(record, tmp_path / "2")
    assert one.read_bytes() == other.read_bytes()


def test_a_report_that_cannot_be_written_is_an_input_error(record: dict, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_demo_report(record, tmp_path)
