"""The stock model: the dense model's own answers, and a row of the demo's table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from calib.data import read_examples
from engines import Runner
from engines.errors import InputError
from pipeline import demo
from pipeline.builder.stock import NAME, StockModel
from tests.gates.builds import classifier

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "demo-cpu.json"


def test_it_gives_the_dense_models_answers_in_any_batch(tiny_tokenizer: Path) -> None:
    built = classifier(tiny_tokenizer)
    dense = built.artifact.with_name("artifact-dense")
    texts = [example.content for example in read_examples(str(built.data), "test")]
    runner = Runner(dense, threads=1)
    expected = np.array([prediction.logits for prediction in runner(texts)])
    for batch in (1, 5):
        stock = StockModel(dense, batch, runner.manifest.max_length, threads=1)
        # Its default precision is bf16 on many CPUs.
        tolerance = 1e-4 if stock.precision == "fp32" else 0.05 * np.abs(expected).max()
        np.testing.assert_allclose(np.array(stock(texts)), expected, atol=tolerance)
    exact = StockModel(dense, 5, runner.manifest.max_length, threads=1, fp32=True)
    assert exact.precision == "fp32"
    np.testing.assert_allclose(np.array(exact(texts)), expected, atol=1e-4)
    with pytest.raises(InputError, match="expected a model in one stage to compare with, found 2"):
        StockModel(built.artifact, 1, 32)


def test_the_demos_table_has_a_row_for_it_where_it_was_timed() -> None:
    record = json.loads(RESULTS.read_text("utf-8"))
    record["stock"] = {"1": 0.8, "8": 0.5}
    record["methods"]["ltp"]["precision"] = "bf16"
    table = demo.markdown_table(record)
    assert f"| dense in {NAME} |  |  | 100 % | 1.00x | 0.80x | 0.50x |" in table
    assert "in bf16 and fp32 with" in " ".join(table.split())
