"""The packed trial on the CPU: the same attention, mass, rows and answers as the padded model."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gpu import packed
from benchmarks.gpu.column_mass import attend_plainly, column_mass
from benchmarks.gpu.packed import PackedModel, Rows, bucket_of, compacted
from engines.errors import InputError
from pipeline.model import save_checkpoint
from pipeline.model.reference import Reference
from plugins.token_compact.operator import token_compact
from tests.conftest import LABELS, build_tiny_model
from tests.graph.small import random_samples, small_model

Lengths = st.lists(st.integers(1, 90), min_size=1, max_size=4)
HEADS, WIDTH = 3, 8
ROOT = Path(__file__).parents[3]


def packed_rows(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries and keys of texts of these lengths, with some padding behind them, and where each text starts."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    query, key = (torch.randn(bucket_of(sum(lengths)), HEADS, WIDTH, generator=generator) for _ in range(2))
    return query, key, starts


def mass_of_a_matrix(query: torch.Tensor, key: torch.Tensor, starts: torch.Tensor, scale: float) -> torch.Tensor:
    """The column sums of the probabilities, which are kept."""
    mass = torch.zeros(len(query))
    for begin, end in zip(starts.tolist(), starts[1:].tolist(), strict=False):
        logits = scale * torch.einsum("qhd,khd->hqk", query[begin:end], key[begin:end])
        mass[begin:end] = logits.softmax(-1).sum((0, 1))
    return mass


@given(lengths=Lengths, seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_the_mass_is_that_of_the_matrix_of_probabilities(lengths: list[int], seed: int) -> None:
    query, key, starts = packed_rows(lengths, seed)
    _, log_sums = attend_plainly(query, key, key, starts, 0.5)
    found = column_mass(query, key, log_sums, starts, max(lengths), 0.5)
    torch.testing.assert_close(found, mass_of_a_matrix(query, key, starts, 0.5), atol=1e-4, rtol=1e-4)
    assert found.sum() == pytest.approx(HEADS * sum(lengths), rel=1e-4)  # every query gives 1 away


IN_THE_INTERPRETER = """
import torch
from benchmarks.gpu.column_mass import attend_plainly, column_mass
from benchmarks.gpu.column_mass_triton import by_triton
from tests.benchmarks.gpu.test_packed import packed_rows
for lengths, dtype in (([5, 70, 1], torch.float32), ([129, 3], torch.float16)):
    query, key, starts = packed_rows(lengths)
    query, key = query.to(dtype), key.to(dtype)
    _, log_sums = attend_plainly(query, key, key, starts, 0.5)
    wanted = column_mass(query, key, log_sums, starts, max(lengths), 0.5)
    found = by_triton(query, key, log_sums, starts, max(lengths), 0.5)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)
    print(len(lengths))
"""


def test_the_kernel_in_tritons_interpreter() -> None:
    """In a process of its own, because Triton decides when it is imported whether it interprets."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", IN_THE_INTERPRETER]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["3", "2"]), done.stderr


@given(lengths=Lengths, share=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_rows_are_compacted_as_the_operator_does_it_text_by_text(lengths: list[int], share: float, seed: int) -> None:
    query, _, starts = packed_rows(lengths, seed)
    hidden, generator = query.flatten(1), torch.Generator().manual_seed(seed)
    keep = torch.rand(len(hidden), generator=generator) < share
    keep[starts[:-1].long()] = True
    keep[starts[-1] :] = False
    found = compacted(Rows(hidden, starts, max(lengths)), keep)
    assert found.starts.dtype == torch.int32 and len(found.hidden) == bucket_of(int(found.starts[-1]))
    assert found.longest == int(found.starts.diff().max())
    for number, (begin, end) in enumerate(zip(starts.tolist(), starts[1:].tolist(), strict=False)):
        alive = torch.ones(1, end - begin, dtype=torch.int32)
        rows, *_, count = token_compact(hidden[None, begin:end], keep[None, begin:end].float(), alive, alive, 0.5)
        at = int(found.starts[number])
        assert int(found.starts[number + 1]) - at == int(count)
        assert torch.equal(found.hidden[at : at + int(count)], rows[0, : int(count)])


@pytest.mark.parametrize("method", ["dense", "ltp", "transkimmer"])
def test_answers_are_those_of_the_padded_model(method: str) -> None:
    model, samples = build_tiny_model(method), random_samples(9)
    expected = Reference.of(model, samples)
    packed_model = PackedModel(model, lambda texts: samples, 9, "cpu")
    found = packed_model.run(samples)
    np.testing.assert_allclose(found, torch.stack(expected.logits).numpy(), atol=1e-5)
    deciding = [step.layer for step in model.steps if step.kind == "decide"]
    counts = torch.stack(expected.counts)  # [samples, layers]
    assert len(packed_model.counts) == len(deciding)
    for layer, carried in zip(deciding, packed_model.counts, strict=True):
        assert torch.equal(carried, counts[:, layer])
    if deciding:
        assert int(packed_model.counts[-1].sum()) < sum(len(sample) for sample in samples)


@given(rows=st.integers(1, 1 << 17))
def test_a_bucket_holds_its_rows_and_wastes_little(rows: int) -> None:
    assert rows <= bucket_of(rows) < rows + max(64, rows / 4 + 1) and bucket_of(bucket_of(rows)) == bucket_of(rows)


def test_models_that_need_more_than_rows_are_refused() -> None:
    for model, reason in (
        (build_tiny_model("topk"), "scores that compare the tokens"),
        (build_tiny_model("ltp", "tagging"), "a head that reads more than the first token"),
        (small_model("ltp", protect_first=False), "a first token that may die"),
    ):
        with pytest.raises(InputError, match=f"the packed trial is not for {reason}"):
            PackedModel(model, lambda texts: [], 1, "cpu")
    with pytest.raises(InputError, match="flash attention has fp16 and bf16 alone"):
        packed.run(packed.parser().parse_args(["--precision", "fp32", "--out", "none.json"]))


def test_the_rehearsal(tiny_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("dense", "ltp"):
        model = small_model(method)
        save_checkpoint(model.config, dict(model.state_dict()), tmp_path / method, tiny_tokenizer)
    labels, data = LABELS["classification"], tmp_path / "data.tsv"
    data.write_text("".join(f"{labels[n % 2]}\tw{4 + n} w9 w{20 + n} w7\n" for n in range(6)), "utf-8")
    given_args = ["--host", "--precision", "fp32", "--rounds", "1", "--batches", "1,4", "--methods", "dense,ltp"]
    where = ["--checkpoints", str(tmp_path), "--data", str(data), "--out", str(tmp_path / "packed.json")]
    assert packed.run(packed.parser().parse_args([*given_args, *where])) == 0
    record = json.loads((tmp_path / "packed.json").read_bytes())
    assert [(t["model"], t["batch"]) for t in record["timings"]] == [
        (method, batch) for batch in (1, 4) for method in ("dense", "ltp")
    ]
    assert all(m["same_labels"] == 1 and m["largest_difference"] < 1e-5 for m in record["models"].values())
    assert record["rehearsal"] and "x dense" in capsys.readouterr().out
