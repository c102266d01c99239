"""The HTML report: well formed, self-contained, escaped, with the figures, and SKIPPED never shown as PASSED."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from engines import artifact as layout
from engines.artifact import Checkpoint, Encoder, EngineRecord, Gate, Head, Manifest
from engines.buckets import Bucket
from engines.errors import InputError
from engines.plan import Plan, StagePlan
from pipeline.report import write_artifact_report, write_demo_report
from pipeline.report.charts import Bar, keep_ratio_chart, ratio_chart

HOSTILE = "<script>alert('1')</script>&\""
VOID = {"meta", "br", "hr", "img", "link", "input", "rect", "line", "path"}


class Page(HTMLParser):
    """A parsed page: its tags, attributes and text; closing a tag that is not open is an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.labels: list[tuple[str, str]] = []  # class of the innermost element, its text
        self._classes: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
            self._classes.append(dict(attrs).get("class") or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()
        self._classes.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"] and data.strip():
            self.pieces.append(data)
            self.labels.append((self._classes[-1] if self._classes else "", " ".join(data.split())))

    @property
    def text(self) -> str:
        """What a reader sees, white space collapsed."""
        return " ".join(" ".join(self.pieces).split())

    def cells(self, heading: str) -> list[str]:
        """The figures of the table row whose heading starts so, one per cell, without their small print."""
        row = re.search(rf"<tr><th[^>]*>{re.escape(heading)}.*?</tr>", self.source, re.DOTALL)
        assert row, heading
        return re.findall(r"<td[^>]*>\s*([^<\s]+)", row[0])


def assert_self_contained(page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not [a for a in page.attributes if a[0] in ("src", "href", "srcset", "xlink:href") or a[0].startswith("on")]
    assert "url(" not in page.source and "@import" not in page.source


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
    expected += ["2 cores of A CPU @ 2.70GHz", "torch 2.13.0", "f0cf8d0f0018…", "same buckets", "SKIPPED GPUs"]
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


def numbers(svg: str, tag: str, name: str) -> list[float]:
    """An attribute of every element of that tag."""
    return [float(value) for value in re.findall(rf'<{tag} [^>]*?\b{name}="([\d.]+)"', svg)]


def test_bars_are_as_long_as_their_values_and_whiskers_lie_on_the_same_scale() -> None:
    bars = [Bar("FLOPs", 2.0, "2.00×", promised=True), Bar("time", 1.5, "1.50×", (1.0, 3.0)), Bar("slow", 0.5, "0.50×")]
    svg = ratio_chart({"a method": bars})
    lengths = numbers(svg, "rect", "width")
    assert [round(length / lengths[0], 2) for length in lengths] == [1.0, 0.75, 0.25]
    start, (low, one), (high, _) = numbers(svg, "rect", "x")[0], numbers(svg, "line", "x1"), numbers(svg, "line", "x2")
    assert low == one == pytest.approx(start + lengths[0] / 2, abs=0.1)
    assert high == pytest.approx(start + 1.5 * lengths[0], abs=0.1)


def test_the_keep_ratio_falls_on_the_axis_and_labels_never_overlap() -> None:
    svg = keep_ratio_chart({"dense": [1.0, 1.0], "a": [0.5, 0.25], "b": [0.5, 0.25]})
    ticks = numbers(svg, "line", "y1")  # 0, 0.25, ... 1
    levels = [[float(y) for y in re.findall(r"V([\d.]+)", path)] for path in re.findall(r' d="([^"]+)"', svg)]
    assert levels[0] == [ticks[4]] * 3
    assert levels[1] == [ticks[4], ticks[2], ticks[1]]
    names = sorted(float(y) for y in re.findall(r'class="name [^>]* y="([\d.]+)"', svg))
    assert len(names) == 3 and min(b - a for a, b in pairwise(names)) >= 15


GATES = [
    Gate(name="reference", status="PASSED", figures={"samples": 1280, "largest_difference": 1.43e-06}),
    Gate(name="task metric", status="SKIPPED", reason="no dense checkpoint to compare with"),
]
BENCH = {
    "flops_ratio": 2.17,
    "machine": {"processor": "A CPU", "cpus": 2, "python": "3.11.7"},
    "versions": {"openvino": "2026.4.1"},
    "timings": [
        {"name": "pruned", "batch": 8, "seconds": 4.0, "texts_per_second": 16.0, "chunks": [4.0]},
        {"name": "dense", "batch": 8, "seconds": 9.0, "texts_per_second": 7.1, "chunks": [9.0]},
        {"name": "pruned", "batch": 16, "seconds": 3.0, "texts_per_second": 21.3, "chunks": [3.0]},
    ],
}


@pytest.fixture
def make_artifact(tmp_path: Path) -> Callable[..., Path]:
    """Writes an artifact of two stages and two buckets, whose engines are no engines: nothing loads them."""

    def make(gates: list[Gate] = GATES, bench: object = None, label: str = "good") -> Path:
        root = tmp_path / "artifact"
        buckets = [Bucket(batch=1, length=16), Bucket(batch=8, length=32)]
        records = [
            EngineRecord(
                stage=stage, batch=b.batch, length=b.length, target="cpu", precision="fp32", file=f"engines/{stage}_{b}"
            )
            for stage in (0, 1)
            for b in buckets
        ]
        plans = [
            StagePlan(graph="stages/stage_0.onnx", steps=["attend 0", "decide 0"]),
            StagePlan(graph="stages/stage_1.onnx", steps=["feed 0"]),
        ]
        for name in [layout.TOKENIZER_NAME, *(p.graph for p in plans), *(e.file for e in records)]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"x" * 200_000)
        if bench is not None:
            (root / "bench.json").write_text(json.dumps(bench), "utf-8")
        layout.write_manifest(
            root,
            Manifest(
                skimrt_version="0.1.0",
                created="2026-01-02T03:04:05+00:00",
                build_key="b" * 64,
                method="ltp",
                head=Head(kind="classification", labels=["bad", label]),
                max_length=32,
                encoder=Encoder(
                    family="bert",
                    hidden_size=8,
                    layers=1,
                    heads=2,
                    vocab_size=9,
                    type_vocab_size=2,
                    pad_token_id=0,
                ),
                protect_first=True,
                checkpoint=Checkpoint(path="checkpoints/ltp", sha256="c" * 64),
                plan=Plan(kind="staged", stages=plans, buckets=buckets),
                engines=records,
                tools={"openvino": "2026.4.1"},
                files=layout.digest_files(root),
                gates=gates,
            ),
        )
        return root

    return make


def statuses(page: Page) -> list[tuple[str, str]]:
    """Every status mark: its class and its words."""
    return [(name, text) for name, text in page.labels if name.startswith("status")]


def test_the_artifact_report_shows_the_manifest(make_artifact: Callable[..., Path]) -> None:
    root = make_artifact()
    before = layout.digest_files(root)
    path = write_artifact_report(root)
    assert path == root.with_name("artifact.report.html")
    assert layout.digest_files(root) == before
    page = Page(path)
    assert_self_contained(page)
    expected = ["LTP, 1 layers × 8, in 2 stages and 4 engines", "classification: bad, good", "checkpoints/ltp"]
    expected += [
        "attend 0 decide 0",
        "0.2 MB",
        "Batch 8, length 32",
        "cpu, fp32 4 engines",
        "7, 1.4 MB",
        "cccccccccccc…",
    ]
    expected += ["samples 1,280 · largest difference 1.43e-06", "openvino 2026.4.1", "2026-01-02T03:04:05"]
    assert [piece for piece in expected if piece not in page.text] == []


def test_skipped_is_apart_from_passed_and_says_why(make_artifact: Callable[..., Path]) -> None:
    failed = Gate(name="decisions", status="FAILED", reason="3 sample(s) flip")
    page = Page(write_artifact_report(make_artifact([*GATES, failed])))
    assert statuses(page) == [
        ("status PASSED", "1 PASSED"),
        ("status FAILED", "1 FAILED"),
        ("status SKIPPED", "1 SKIPPED"),
        ("status PASSED", "PASSED"),
        ("status SKIPPED", "SKIPPED"),
        ("status FAILED", "FAILED"),
        ("status SKIPPED", "SKIPPED"),  # the timings
    ]
    assert "task metric no dense checkpoint to compare with" in page.text
    assert "decisions 3 sample(s) flip" in page.text
    assert "This build timed nothing" in page.text


def test_an_artifact_without_gates_has_passed_nothing(make_artifact: Callable[..., Path]) -> None:
    page = Page(write_artifact_report(make_artifact([])))
    assert {name for name, _ in statuses(page)} == {"status SKIPPED"}
    assert "no gate ran" in page.text


def test_timings_are_against_dense_where_dense_was_timed(make_artifact: Callable[..., Path]) -> None:
    page = Page(write_artifact_report(make_artifact(bench=BENCH)))
    assert "pruned 8 16.0 2.25× dense 8 7.1 1.00× pruned 16 21.3 –" in page.text
    assert "FLOPs ratio over the texts of the gates: 2.17×" in page.text


def test_a_bench_of_another_form_is_an_input_error_that_lists_what_is_wrong(make_artifact: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"bench\.json: 2 problem(?s:.*)flops_ratio(?s:.*)timings"):
        write_artifact_report(make_artifact(bench={**BENCH, "flops_ratio": "much", "timings": 1}))


def test_hostile_labels_and_reasons_are_escaped(make_artifact: Callable[..., Path]) -> None:
    gates = [Gate(name=HOSTILE, status="SKIPPED", reason=HOSTILE, figures={HOSTILE: HOSTILE})]
    page = Page(write_artifact_report(make_artifact(gates, label=HOSTILE)))
    assert_self_contained(page)
    assert page.text.count(HOSTILE) == 5


def verb(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_verb_writes_where_it_is_told_and_says_where(make_artifact: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "pages" / "one.html"
    done = verb(make_artifact(), "--out", out, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"report": str(out)}), done.stderr
    assert "SKIPPED" in Page(out).text


def test_the_verb_refuses_a_missing_artifact(tmp_path: Path) -> None:
    done = verb(tmp_path / "nothing")
    assert done.returncode == 2
    assert "expected a directory that pipeline.build wrote" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_about_a_damaged_artifact(make_artifact: Callable[..., Path]) -> None:
    root = make_artifact()
    (root / "stages" / "stage_1.onnx").write_bytes(b"y" * 200_000)
    with pytest.raises(InputError, match=r"stage_1\.onnx: expected SHA-256"):
        write_artifact_report(root)
    assert not root.with_name("artifact.report.html").exists()


@pytest.mark.parametrize("name", ["report.html", "new/report.html", "../artifact/manifest.json"])
def test_a_report_never_goes_into_the_artifact(make_artifact: Callable[..., Path], name: str) -> None:
    root = make_artifact()
    before = layout.digest_files(root)
    with pytest.raises(InputError, match="inside the artifact"):
        write_artifact_report(root, root / name)
    assert layout.digest_files(root) == before
