"""The papers' tables: the sets, how decisions are moved, what padding gives, and what the document shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper_sets import SETS, halves, missing, read_parts, read_qnli
from benchmarks.paper_tables import CLAIMED, best_of, claim, tables_of
from benchmarks.working_points import bisect, exchange, model_at, padding_gain, save_at, strength_of
from calib.data import Example
from engines.errors import InputError
from pipeline.builder.subject import tokens_of
from pipeline.model import load_checkpoint
from pipeline.model.flops import count_flops, dense_flops
from pipeline.training.evaluation import ratio_on
from tests.conftest import HEADS, INNER, LAYERS, LONGEST, WIDTH, TinyModel

ROOT = Path(__file__).resolve().parents[2]
HEADER = "index\tquestion\tsentence\tlabel"
TEXTS = [Example(" ".join(f"w{4 + (7 * n + 3 * k) % 56}" for k in range(8 + n % 17)), "no") for n in range(48)]


def test_pairs_are_read_as_glue_has_them(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text(f'{HEADER}\n0\tWho is "he?\tHe is "she".\tentailment\n', "utf-8")
    assert read_qnli(path) == [Example('Who is "he?', "entailment", text_b='He is "she".')]
    for wrong in (f"{HEADER}\n0\tonly\tthree\n", "label\ttext\n1\ta\n"):
        path.write_text(wrong, "utf-8")
        with pytest.raises(InputError, match="expected index, question, sentence and label"):
            read_qnli(path)


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3))))
def test_halves_share_no_question_and_lose_nothing(pairs: list[tuple[str, str]]) -> None:
    examples = [Example(question, "1", text_b=sentence) for question, sentence in pairs]
    first, second = halves(examples)
    assert not {e.text for e in first} & {e.text for e in second}
    assert sorted(map(str, [*first, *second])) == sorted(map(str, examples))
    assert halves(examples[::-1])[0] == first[::-1]


def test_no_text_to_train_on_is_evaluated_on(tmp_path: Path) -> None:
    (tmp_path / "mrpc").mkdir()
    (tmp_path / "mrpc" / "train.tsv").write_text("1\ta\tb\n0\tc\td\n1\te\tf\n", "utf-8")
    (tmp_path / "mrpc" / "dev.tsv").write_text("0\tc\td\n1\tg\th\n", "utf-8")
    train, test = read_parts("mrpc", tmp_path)
    assert {e.text for e in train} == {"a", "e"} and [e.text for e in test] == ["c", "g"]


def test_a_set_that_is_not_there_is_said_to_be_skipped(tmp_path: Path) -> None:
    for name, of in SETS.items():
        said = missing(name, tmp_path)
        assert said == missing(name, None)
        if of.how_to_get is None:
            assert said is None
            continue
        assert said is not None and "SKIPPED" in said and f"{name}/dev.tsv" in said
        with pytest.raises(InputError, match="SKIPPED"):
            read_parts(name, tmp_path)


@pytest.mark.parametrize("method", ["ltp", "transkimmer", "topk", "threshold"])
def test_a_point_has_its_ratio_and_its_checkpoint_has_it_too(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, method: str
) -> None:
    source = tiny_checkpoint(method)
    samples = tokens_of(source, load_checkpoint(source), TEXTS)
    reached = [ratio_on(model_at(source, wanted, samples), samples)() for wanted in (1.2, 1.5)]
    assert reached == [pytest.approx(1.2, abs=0.05), pytest.approx(1.5, abs=0.05)]
    save_at(model_at(source, 1.5, samples), source, tmp_path)
    assert ratio_on(load_checkpoint(tmp_path), samples)() == pytest.approx(reached[1], abs=1e-9)


@pytest.mark.parametrize("method", ["topk", "threshold"])
def test_a_rule_is_exchanged_at_one_layer(tiny_checkpoint: Callable[..., Path], tmp_path: Path, method: str) -> None:
    source = tiny_checkpoint("transkimmer")
    exchange(source, method, 1, tmp_path)  # type: ignore[arg-type]
    model, before = load_checkpoint(tmp_path), load_checkpoint(source).state_dict()
    assert [model.pruner.decides(layer) for layer in range(LAYERS)] == [False, True, False, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert strength_of(model.pruner) == 0.5


def test_an_interval_is_halved_until_the_ratio_is_there() -> None:
    tried: list[float] = []
    bisect(tried.append, lambda: 1 / (1 - tried[-1]), 4.0)
    assert tried[-1] == pytest.approx(0.75, abs=0.002) and len(tried) < 16


@given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=5))
def test_padding_costs_what_the_products_of_padded_texts_cost(tiny_model: TinyModel, lengths: list[int]) -> None:
    def products(rows: int) -> float:
        return LAYERS * (8 * WIDTH**2 * rows + 4 * WIDTH * rows**2 + 4 * WIDTH * INNER * rows) + 2 * WIDTH * (WIDTH + 3)

    model, real = tiny_model("ltp"), torch.tensor(lengths)
    gain = padding_gain(model.config, lengths, LONGEST)
    assert WIDTH % HEADS == 0 and gain == pytest.approx(
        products(LONGEST) * len(lengths) / sum(products(n) for n in lengths)
    )
    # The ratio over a padded baseline is that over an unpadded one times what padding gives.
    ours = float(count_flops(model.config, real, real.expand(LAYERS, -1) / 2).total.sum())
    padded = dense_flops(model.config, torch.full_like(real, LONGEST)).total.sum()
    skipping = float(dense_flops(model.config, real).total.sum()) / ours
    assert float(padded) / ours == pytest.approx(skipping * gain)


def record_of(drops: list[float]) -> dict:
    """A record of one set with one method, whose points lose so many points."""
    dense = {
        "accuracy": 0.9,
        "training": {"command": "", "texts": 5, "cpu_minutes": 1.0},
    }
    points = {
        f"sst2/ltp/{ratio:g}": {"accuracy": round(0.9 - drop / 100, 4), "drop_points": drop, "flops_ratio": ratio}
        for ratio, drop in zip(SETS["sst2"].ratios, drops, strict=True)
    }
    padding = {"texts": 100, "tokens": 25.0, "gain": {"128": 5.0, "512": 20.0}}
    found = {
        "sst2/padding": padding,
        "sst2/dense": dense,
        "sst2/ltp": {"training": {"command": "", "at": 2.0}},
        **points,
    }
    machine = {"machine": {"processor": "a CPU", "cpus": 2}, "versions": {"openvino": "1"}}
    return {"seed": 0, "skipped": {"mrpc": "MRPC: SKIPPED, --data needs it"}, "found": found, **machine}


def test_the_best_point_saves_most_within_the_budget() -> None:
    found = record_of([0.0, 1.01, 1.0, 1.01])["found"]
    assert best_of(found, "sst2", "ltp") == found["sst2/ltp/2"]
    assert best_of(record_of([2.0] * 4)["found"], "sst2", "ltp") is None
    assert best_of(found, "sst2", "topk") is None


def test_the_tables_say_what_padding_gives_what_skipping_gives_and_what_was_skipped() -> None:
    shown = tables_of(record_of([0.0, 0.5, 1.0, 4.0]))
    assert "| SST-2 | dense |  | 0.9000 |  | 1.00x | 5.00x | 20.00x |" in shown
    assert "| SST-2 | ltp | 2 | 0.8600 | 4.00 | 2.50x | 12.50x | 50.00x |" in shown
    assert "| SST-2 | ltp | 1.00 | 2.00x | 10.00x | 40.00x | not timed | not timed | not timed |" in shown
    assert "| SST-2 | 100 | 25.0 | 5.00x | 20.00x | 2.19x | 0.55x |" in shown
    said = shown.replace("\n", " ")
    assert "MRPC: SKIPPED, --data needs it" in said
    assert "Not measured yet: SST-2 (transkimmer, topk, threshold), QNLI, movie-reviews, long" in said


def test_the_claim_is_met_or_said_to_be_missed() -> None:
    assert f"{CLAIMED / 10:.2f} times short of it" in claim(record_of([0.0, 0.5, 1.0, 4.0])["found"])
    assert "ltp 12.50x (5.00x by padding, 2.50x by skipping), no less than it" in claim(record_of([0.0] * 4)["found"])
    none = claim(record_of([2.0] * 4)["found"])
    assert "ltp 5.00x (5.00x by padding, 1.00x by skipping)" in none, "without a point, the dense model stays"


def test_the_document_shows_the_record() -> None:
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    shown = page.split("papers.json`) -->\n", 1)[1].split("<!-- papers table: end", 1)[0]
    record = json.loads((ROOT / "benchmarks" / "results" / "papers.json").read_text("utf-8"))
    assert shown.strip() == tables_of(record).strip()
