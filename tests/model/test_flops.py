"""FLOPs against sums worked out by hand, and what must hold whatever the numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model import CheckpointConfig
from pipeline.model.config import EncoderConfig, HeadConfig, PrunerConfig
from pipeline.model.flops import count_flops, dense_flops
from pipeline.model.parts import Disentangled, LocalAttention
from tests.conftest import LAYERS, METHODS, TinyModel
from tests.model.samples import lay_out, make_samples

D, F = 4, 6
ENCODER = EncoderConfig(
    family="bert", vocab_size=9, hidden_size=D, layers=2, heads=2, intermediate_size=F, max_positions=16
)
PRUNERS = {
    "dense": PrunerConfig(),
    "ltp": PrunerConfig(method="ltp", thresholds=[0.0, 0.1], reference_length=8),
    "transkimmer": PrunerConfig(method="transkimmer", predictor_hidden=3),
    "topk": PrunerConfig(method="topk", keep_rates=[1.0, 0.5]),
    "threshold": PrunerConfig(method="threshold", thresholds=[0.0, 0.5]),
}


def config(method: str, head: str = "classification") -> CheckpointConfig:
    labels = HeadConfig(kind=head, labels=["a", "b", "c"])
    return CheckpointConfig(encoder=ENCODER, head=labels, pruner=PRUNERS[method], max_length=8)


def block(attended: int, fed: int) -> tuple[int, int, int]:
    """A layer's parts with `attended` rows in its attention and `fed` in its feed-forward."""
    projections = 2 * 4 * D * D * attended  # query, key, value, output
    attention = 2 * 2 * D * attended * attended  # logits, context
    return projections, attention, 2 * 2 * D * F * fed


@pytest.mark.parametrize(
    ("method", "first", "second", "predicted"),
    [
        ("dense", (5, 5), (5, 5), 0),
        # LTP decides behind the attention: layer 1 attends with 4 rows and feeds 2.
        ("ltp", (5, 4), (4, 2), 0),
        # Transkimmer decides before it: both work on the survivors; the predictor saw those alive before.
        ("transkimmer", (4, 4), (2, 2), 2 * (D * 3 + 3 * 2) * (5 + 4)),
        ("topk", (5, 4), (4, 2), 0),
        ("threshold", (5, 4), (4, 2), 0),
    ],
)
def test_a_case_worked_out_by_hand(method: str, first, second, predicted: int) -> None:
    counts = torch.tensor([[5], [5]] if method == "dense" else [[4], [2]])
    found = count_flops(config(method), torch.tensor([5]), counts)
    layers = [block(*first), block(*second)]
    assert [float(part) for part in (found.projections, found.attention, found.feed_forward)] == [
        float(sum(parts)) for parts in zip(*layers, strict=True)
    ]
    assert float(found.predictor) == predicted
    assert float(found.head) == 2 * (D * D + D * 3)
    assert float(found.total) == sum(map(sum, layers)) + predicted + float(found.head)


def test_a_modern_layer_worked_out_by_hand() -> None:
    """Gated, projected from width 2, the second layer local: a query there sees 2 * 1 + 1 keys of 5."""
    parts = {"feed_forward": "gated", "embedding_size": 2, "local": LocalAttention(distance=1, global_layers=[0])}
    modern = config("dense").model_copy(update={"encoder": ENCODER.model_copy(update=parts)})
    found = count_flops(modern, torch.tensor([5, 2]), torch.tensor([[5, 2], [5, 2]]))
    assert found.projections.tolist() == [2 * block(n, n)[0] + 2 * 2 * D * n for n in (5, 2)]
    assert found.attention.tolist() == [4 * D * 5 * (5 + 3), 4 * D * 2 * (2 + 2)]
    assert found.feed_forward.tolist() == [2 * 3 * 2 * D * F * n for n in (5, 2)]


def test_biases_by_distance_and_norms_are_no_products() -> None:
    parts = {"alibi": True, "attention_norms": 2, "query_key_norm": True, "learned_positions": False}
    jina = config("ltp").model_copy(update={"encoder": ENCODER.model_copy(update=parts)})
    figures = torch.tensor([5]), torch.tensor([[4], [2]])
    assert torch.equal(count_flops(jina, *figures).total, count_flops(config("ltp"), *figures).total)


def test_disentangled_products_worked_out_by_hand() -> None:
    part = Disentangled(buckets=3, position_to_content=False)
    deberta = config("dense").model_copy(update={"encoder": ENCODER.model_copy(update={"disentangled": part})})
    found = count_flops(deberta, torch.tensor([5]), torch.tensor([[5], [5]]))
    assert float(found.attention) == 2 * (block(5, 5)[1] + 2 * 5 * D * (2 * 3))


@pytest.mark.parametrize(("method", "decisions"), [("dense", 0), ("ltp", 1), ("transkimmer", 2)])
def test_every_decision_translates_one_sum_of_a_text(method: str, decisions: int) -> None:
    head = HeadConfig(kind="embedding", size=D, pooling="mean")
    pruner, rows = PRUNERS[method], (torch.tensor([4, 6]), torch.tensor([[4, 6], [2, 3]]))
    plain, translated = (
        count_flops(CheckpointConfig(encoder=ENCODER, head=head, pruner=rule, max_length=8), *rows).total
        for rule in (pruner, pruner.model_copy(update={"translated": True}))
    )
    assert (translated - plain).tolist() == [2 * D * D * decisions] * 2


def test_a_token_level_head_reads_every_real_token_dead_or_alive() -> None:
    found = count_flops(config("ltp", "tagging"), torch.tensor([5, 2]), torch.tensor([[5, 2], [1, 1]]))
    assert found.head.tolist() == [2 * 5 * D * 3, 2 * 2 * D * 3]


@pytest.mark.parametrize("method", METHODS)
def test_the_dense_figure_is_the_methods_own_with_everything_alive(method: str) -> None:
    lengths = torch.tensor([8, 3])
    everything = count_flops(config(method), lengths, lengths.expand(2, -1))
    dense = dense_flops(config(method), lengths)
    assert torch.equal(dense.predictor, torch.zeros(2, dtype=torch.float64))
    assert torch.equal(everything.total - everything.predictor, dense.total)


lengths_and_counts = st.lists(
    st.integers(1, 8).flatmap(
        lambda n: st.integers(1, n).flatmap(lambda a: st.tuples(st.just(n), st.just(a), st.integers(1, a)))
    ),
    min_size=1,
    max_size=4,
)


@given(lengths_and_counts, st.sampled_from(METHODS))
def test_padding_costs_and_dead_tokens_save(samples: list[tuple[int, int, int]], method: str) -> None:
    lengths, first, second = (torch.tensor(values) for values in zip(*samples, strict=True))
    counts = torch.stack([first, second])
    ours = count_flops(config(method), lengths, counts)
    padded = count_flops(config(method), lengths, counts, lambda rows: rows.max().expand_as(rows))
    bucketed = count_flops(config(method), lengths, counts, lambda rows: torch.ceil(rows / 4) * 4)
    assert (padded.total >= ours.total).all()
    assert (bucketed.total >= ours.total).all()
    assert (ours.total - ours.predictor <= dense_flops(config(method), lengths).total).all()
    more = count_flops(config(method), lengths, torch.stack([first, first]))
    assert (more.total >= ours.total).all()
    assert (more.total > ours.total)[first > second].all()


@pytest.mark.parametrize("method", METHODS)
def test_counting_is_per_sample_and_differentiable_where_counts_matter(method: str) -> None:
    counts = torch.tensor([[4.5, 2.0], [3.5, 1.0]], requires_grad=True)
    lengths = torch.tensor([5, 2])
    found = count_flops(config(method), lengths, counts).total
    alone = [count_flops(config(method), lengths[i : i + 1], counts[:, i : i + 1]).total for i in range(2)]
    assert torch.equal(found, torch.cat(alone))
    found.sum().backward()
    assert (counts.grad > 0).all()


def test_counting_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    count_flops(config("transkimmer"), torch.tensor([5]), torch.tensor([[4], [2]]))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", METHODS)
def test_the_models_own_counts_cost_less_than_dense(tiny_model: TinyModel, method: str) -> None:
    model = tiny_model(method)
    with torch.no_grad():
        out = model(*lay_out(make_samples(model, [32, 20], 0), 32, [range(32), range(20)]))
    lengths = torch.tensor([32, 20])
    ours, dense = count_flops(model.config, lengths, out.counts), dense_flops(model.config, lengths)
    assert out.counts.shape == (LAYERS, 2)
    if method == "dense":
        assert torch.equal(ours.total, dense.total)
    else:
        assert (ours.total - ours.predictor < dense.total).all()
