"""An artifact's report: what the manifest says, SKIPPED never shown as PASSED, nothing written into the artifact."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from calib.retention import RetentionStatistics
from engines.artifact import digest_files
from engines.buckets import Bucket
from engines.errors import InputError
from engines.head import Head
from engines.manifest import TOKENIZER_NAME, Checkpoint, Encoder, EngineRecord, Gate, Manifest
from engines.manifest_file import write_manifest
from engines.plan import Plan, StagePlan
from pipeline.report.artifact import write_artifact_report
from tests.report.page import HOSTILE, Page, assert_self_contained

GATES = [
    Gate(name="reference", status="PASSED", figures={"samples": 1280, "largest_difference": 1.43e-06}),
    Gate(name="task metric", status="SKIPPED", reason="no dense checkpoint to compare with"),
]
BENCH = {
    "flops_ratio": 2.17,
    "max_length": 128,
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

    def make(gates: list[Gate] = GATES, bench: object = None, label: str = "good", retention: str = "") -> Path:
        root = tmp_path / "artifact"
        buckets = [Bucket(batch=1, length=16), Bucket(batch=8, length=32)]
        records = [
            EngineRecord(stage=stage, profiles=tuple(buckets), target="cpu", precision="fp32", file=f"engines/{stage}")
            for stage in (0, 1)
        ]
        plans = [
            StagePlan(graph="stages/stage_0.onnx", steps=["attend 0", "decide 0"]),
            StagePlan(graph="stages/stage_1.onnx", steps=["feed 0"]),
        ]
        for name in [TOKENIZER_NAME, *(p.graph for p in plans), *(e.file for e in records)]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"x" * 200_000)
        if bench is not None:
            (root / "bench.json").write_text(json.dumps(bench), "utf-8")
        if retention:
            (root / "retention.json").write_text(retention, "utf-8")
        write_manifest(
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
                plan=Plan(stages=plans, buckets=buckets),
                engines=records,
                tools={"openvino": "2026.4.1"},
                files=digest_files(root),
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
    before = digest_files(root)
    path = write_artifact_report(root)
    assert path == root.with_name("artifact.report.html")
    assert digest_files(root) == before
    page = Page(path)
    assert_self_contained(page)
    expected = ["LTP, 1 layers × 8, in 2 stages and 2 engines", "classification: bad, good", "checkpoints/ltp"]
    expected += [
        "attend 0 decide 0",
        "0.2 MB",
        "Stage 0, batch 8, length 32",
        "cpu, fp32 2 engines, 4 profiles",
        "5, 1.0 MB",
        "cccccccccccc…",
    ]
    expected += ["samples 1,280 · largest difference 1.43e-06", "openvino 2026.4.1", "2026-01-02T03:04:05"]
    assert [piece for piece in expected if piece not in page.text] == []


def test_retention_is_drawn_for_all_texts_and_by_length(make_artifact: Callable[..., Path]) -> None:
    rows = [[10, 5], [100, 50], [110, 60]]
    statistics = RetentionStatistics(data=HOSTILE, data_sha256="", checkpoint_sha256="", rows=rows)
    page = Page(write_artifact_report(make_artifact(retention=statistics.model_dump_json())))
    assert_self_contained(page)
    for caption in ("All texts: 10 to 110 tokens, 3 texts", "10 to 10 tokens, 1 text", "100 to 110 tokens, 2 texts"):
        assert caption in page.text
    with pytest.raises(InputError, match="rows"):
        write_artifact_report(make_artifact(retention="{}"))


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
    assert "This build was not timed" in page.text


def test_an_artifact_without_gates_has_passed_nothing(make_artifact: Callable[..., Path]) -> None:
    page = Page(write_artifact_report(make_artifact([])))
    assert {name for name, _ in statuses(page)} == {"status SKIPPED"}
    assert "no gate ran" in page.text


def test_timings_are_against_dense_where_dense_was_timed(make_artifact: Callable[..., Path]) -> None:
    page = Page(write_artifact_report(make_artifact(bench=BENCH)))
    assert "pruned 8 16.0 2.25× dense 8 7.1 1.00× pruned 16 21.3 –" in page.text
    assert "FLOPs ratio over the timed texts, cut at 128 tokens for both: 2.17×" in page.text


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
    before = digest_files(root)
    with pytest.raises(InputError, match="inside the artifact"):
        write_artifact_report(root, root / name)
    assert digest_files(root) == before
