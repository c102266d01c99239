"""Results depend on a sample's tokens alone: not on execution, padding, layout, batch or neighbours."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines.errors import InputError
from pipeline.model import PrunedTransformer
from pipeline.model.positions import mask_fill
from tests.conftest import LABELS, LONGEST, METHODS, WORDS, TinyModel, build_tiny_model
from tests.model.samples import MARGIN, assert_same, decision_margin, lay_out, make_samples, run

every_method = pytest.mark.parametrize("method", METHODS)
both_executions = pytest.mark.parametrize("execution", ["masked", "compacted"])
few = settings(max_examples=12)
Case = tuple[PrunedTransformer, list[Tensor]]


def draw_case(data: st.DataObject, tiny_model: TinyModel, method: str, longest: int = LONGEST) -> Case:
    """A random model of the method and a batch whose decisions are clear of the rounding of scores."""
    head, family = data.draw(st.sampled_from(sorted(LABELS))), data.draw(st.sampled_from(["bert", "roberta"]))
    protect = data.draw(st.booleans()) if method != "dense" else True
    model = tiny_model(method, head, family, data.draw(st.integers(0, 2)), protect_first=protect)
    batch = data.draw(st.sampled_from([1, 2, 3, 7, 8, 9]))
    lengths = data.draw(st.lists(st.integers(1, longest), min_size=batch, max_size=batch))
    samples = make_samples(model, lengths, data.draw(st.integers(0, 2**20)))
    assume(decision_margin(model, samples) > MARGIN)
    return model, samples


@every_method
@few
@given(st.data())
def test_masked_equals_compacted(tiny_model: TinyModel, method: str, data: st.DataObject) -> None:
    model, samples = draw_case(data, tiny_model, method)
    assert_same(run(model, samples, "compacted"), run(model, samples, "masked"))


@every_method
@both_executions
@few
@given(st.data())
def test_padding_and_neighbours_do_not_matter(
    tiny_model: TinyModel, execution: str, method: str, data: st.DataObject
) -> None:
    model, samples = draw_case(data, tiny_model, method)
    length = data.draw(st.integers(max(sample.shape[1] for sample in samples), LONGEST))
    alone = [run(model, [sample])[0] for sample in samples]
    assert_same(run(model, samples, execution, length), alone)


@every_method
@both_executions
@few
@given(st.data())
def test_fault_10_left_padding_and_holes_equal_the_packed_input(
    tiny_model: TinyModel, execution: str, method: str, data: st.DataObject
) -> None:
    model, samples = draw_case(data, tiny_model, method, longest=12)
    length, chance = 16, data.draw(st.randoms(use_true_random=False))
    scattered = [sorted(chance.sample(range(length), sample.shape[1])) for sample in samples]
    left = [range(length - sample.shape[1], length) for sample in samples]
    packed = run(model, samples, execution)
    assert_same(run(model, samples, execution, length, scattered), packed)
    assert_same(run(model, samples, execution, length, left), packed)


@every_method
@both_executions
def test_fault_11_an_all_padding_sample_is_finite_and_leaves_the_others_alone(
    tiny_model: TinyModel, execution: str, method: str
) -> None:
    for head in LABELS:
        model = tiny_model(method, head)
        samples = make_samples(model, [LONGEST, 1, 5], seed=3)
        assert decision_margin(model, samples) > MARGIN
        empty = torch.zeros(2, 0, dtype=torch.long)
        rows = [samples[0], empty, samples[1], samples[2]]
        out = run(model, rows, execution)
        assert_same([out[0], out[2], out[3]], [run(model, [sample])[0] for sample in samples])
        with torch.no_grad():
            whole = model(*lay_out(rows, LONGEST, [range(r.shape[1]) for r in rows]), execution=execution)
        assert whole.logits.isfinite().all()
        assert whole.last_hidden_state.isfinite().all()
        assert not whole.alive[:, 1].any()
        assert whole.counts[:, 1].tolist() == [1] * 4  # the first row is always carried


@every_method
def test_fault_12_every_batch_size_equals_batch_one(tiny_model: TinyModel, method: str) -> None:
    model = tiny_model(method)
    samples = make_samples(model, [9, 20, 3, 32, 1, 14, 27, 6, 11], seed=5)
    assert decision_margin(model, samples) > MARGIN
    alone = [run(model, [sample])[0] for sample in samples]
    for size in range(1, len(samples) + 1):
        assert_same(run(model, samples[:size], "compacted"), alone[:size])


@every_method
@few
@given(st.data())
def test_a_dead_token_never_returns(tiny_model: TinyModel, method: str, data: st.DataObject) -> None:
    model, samples = draw_case(data, tiny_model, method)
    for result in run(model, samples, "compacted"):
        alive = result.alive.int()
        assert (alive.diff(dim=0) <= 0).all()
        carried = alive.sum(1) + (1 - alive[:, 0])
        assert torch.equal(result.counts, carried.int())


def test_the_mask_alone_says_what_is_real(tiny_model: TinyModel) -> None:
    """Without a mask every token is real, even one with the padding id; masks may be of any type."""
    model = tiny_model("ltp")
    ids = torch.tensor([[2, 9, 0, 11, 3]])
    with torch.no_grad():
        bare, full = model(ids), model(ids, torch.ones(1, 5, dtype=torch.bool))
        half = model(ids, torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]]))
    assert torch.equal(bare.logits, full.logits)
    assert bare.alive[0].all()
    assert half.alive[0].tolist() == [[True, True, True, False, False]]


@both_executions
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_fault_09_lengths_from_one_to_the_longest_run_and_others_are_refused(
    tiny_model: TinyModel, family: str, execution: str
) -> None:
    model = tiny_model("ltp", family=family)
    longest = model.config.encoder.longest_input
    assert longest == (LONGEST + 2 if family == "bert" else LONGEST)
    for length in (1, longest):
        assert model(torch.full((2, length), 5), execution=execution).logits.isfinite().all()
    with pytest.raises(InputError, match=rf"length {longest + 1} exceeds the {longest} positions"):
        model(torch.full((2, longest + 1), 5), execution=execution)
    for empty in ((2, 0), (0, 4)):
        with pytest.raises(InputError, match=r"at least one token, found \["):
            model(torch.zeros(empty, dtype=torch.long), execution=execution)


@pytest.mark.parametrize("bad", [WORDS, -1, 2**31, 2**40], ids=["vocabulary", "negative", "int32", "int64"])
def test_fault_13_token_ids_out_of_the_vocabulary_are_refused(tiny_model: TinyModel, bad: int) -> None:
    with pytest.raises(InputError, match=rf"input_ids must lie in \[0, {WORDS}\), found \[.*{bad}.*\]"):
        tiny_model("dense")(torch.tensor([[2, 5, bad, 3]]))


def test_every_problem_of_an_input_is_listed_at_once(tiny_model: TinyModel) -> None:
    ids = torch.full((1, LONGEST + 3), WORDS)
    with pytest.raises(InputError) as error:
        tiny_model("dense")(ids, torch.ones(1, 4), torch.full_like(ids, -1))
    text = str(error.value)
    for part in (
        "4 problem(s)",
        "length 35",
        "input_ids must",
        "attention_mask must",
        "token_type_ids must lie",
    ):
        assert part in text
    assert "found [-1, -1]" in text
    with pytest.raises(InputError, match="'masked' or 'compacted', found 'fast'"):
        tiny_model("dense")(torch.tensor([[1, 2]]), execution="fast")


@pytest.mark.parametrize("gain", [1e-15, 1.0, 60.0, 1e4])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_dead_keys_do_not_matter_however_large_the_logits(family: str, gain: float) -> None:
    """Queries and keys that have grown in training give logits of millions, and a finite mask must remove them all."""
    model = build_tiny_model("dense", family=family)
    for name, parameter in model.named_parameters():
        if name.endswith(("query.weight", "key.weight")):
            parameter.data *= gain
    with torch.no_grad():
        for sample in make_samples(model, [3, 7, 12], seed=1):
            ids = sample[:1]
            padded = torch.randint(4, WORDS, (1, LONGEST), generator=torch.Generator().manual_seed(0))
            padded[:, : ids.shape[1]] = ids
            mask = (torch.arange(LONGEST) < ids.shape[1]).long()[None]
            torch.testing.assert_close(model(padded, mask).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_mask_is_finite_and_removes_what_the_type_can_hold(dtype: torch.dtype) -> None:
    fill = torch.tensor(mask_fill(dtype), dtype=dtype)
    largest = torch.tensor(1.4e4 if dtype == torch.float16 else 1e20, dtype=dtype)
    dead, alive = largest + fill, -largest
    assert torch.isfinite(fill) and torch.isfinite(-largest + fill) and float(alive - dead) > 500
    assert torch.softmax(torch.stack([dead, alive]).float(), 0)[0] == 0
