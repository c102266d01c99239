"""A protected segment, such as a query: its tokens stay alive in every execution, in stages and in exported graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.stages import original
from pipeline.graph.stages import Stage, cut_stages, decision_layers
from pipeline.model.config import CheckpointConfig, EncoderConfig, HeadConfig, PrunerConfig
from pipeline.model.rounding import CHAIN, scale
from pipeline.model.transformer import PrunedTransformer
from pipeline.training.relaxation import Relaxation

SEPARATOR, LAYERS = 2, 3
METHODS = {
    "ltp": {"thresholds": [0.0, 0.05, 0.05], "reference_length": 16},
    "transkimmer": {"predictor_hidden": 8},
    "topk": {"keep_rates": [1.0, 0.4, 0.5]},
    "threshold": {"thresholds": [0.0, 0.9, 0.9]},
}


def model_of(method: str, protect_until: int | None = SEPARATOR, seed: int = 0) -> PrunedTransformer:
    torch.manual_seed(seed)
    encoder = EncoderConfig(
        family="bert",
        vocab_size=50,
        hidden_size=16,
        layers=LAYERS,
        heads=2,
        intermediate_size=32,
        max_positions=32,
    )
    pruner = PrunerConfig(method=method, protect_until=protect_until, **METHODS[method])  # type: ignore[arg-type]
    head = HeadConfig(kind="ranking", labels=["value"])
    return PrunedTransformer(CheckpointConfig(encoder=encoder, head=head, pruner=pruner, max_length=32)).eval()


def pairs(queries: list[int], passages: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[CLS] query [SEP] passage [SEP], padded: ids, mask, and which tokens are the query's, all [B, S]."""
    generator = torch.Generator().manual_seed(seed)
    length = max(q + p + 3 for q, p in zip(queries, passages, strict=True))
    ids, mask, ours = (torch.zeros(len(queries), length, dtype=torch.int64) for _ in range(3))
    for row, (query, passage) in enumerate(zip(queries, passages, strict=True)):
        ids[row, : query + passage + 3] = torch.randint(3, 50, (query + passage + 3,), generator=generator)
        ids[row, query + 1] = ids[row, query + passage + 2] = SEPARATOR
        mask[row, : query + passage + 3] = 1
        ours[row, : query + 2] = 1
    return ids, mask, ours.bool()


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 12)), min_size=1, max_size=3), seed=st.integers(0, 99)
)
def test_the_query_lives_and_both_executions_agree(method: str, sizes: list[tuple[int, int]], seed: int) -> None:
    model = model_of(method, seed=seed)
    ids, mask, ours = pairs([q for q, _ in sizes], [p for _, p in sizes], seed)
    with torch.no_grad():
        masked, compacted = (model(ids, mask, execution=execution) for execution in ("masked", "compacted"))
    assert masked.alive[:, ours].all()
    assert torch.equal(masked.alive, compacted.alive)
    torch.testing.assert_close(masked.logits, compacted.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_whether_the_query_stays_is_no_matter_of_rounding(method: str) -> None:
    """Else the gates would excuse every text that has a query."""
    model = model_of(method)
    ids, mask, ours = pairs([6, 5, 6, 4], [9, 12, 8, 12])
    with torch.no_grad():
        out = model(ids, mask)
    for layer in decision_layers(model):
        distance = out.score[layer] - model.pruner.threshold(layer)
        assert (distance[ours] > CHAIN * scale(out.score[layer][mask.bool()])).all()


@pytest.mark.parametrize("method", METHODS)
def test_unprotected_queries_die_and_passages_die_with_protection_too(method: str) -> None:
    ids, mask, ours = pairs([6, 5, 6, 4], [9, 12, 8, 12])
    passage = mask.bool() & ~ours
    with torch.no_grad():
        free = model_of(method, protect_until=None)(ids, mask)
        held = model_of(method)(ids, mask)
    assert not free.alive[-1][ours].all()
    assert not held.alive[-1][passage].all()


@pytest.mark.parametrize("method", METHODS)
def test_stages_carry_the_protection_on_through_the_operator(method: str) -> None:
    model = model_of(method)
    ids, mask, ours = pairs([4, 2], [9, 7])
    expected = model(ids, mask)
    alive, position = mask.int(), torch.arange(ids.shape[1])
    first, second, third = ids, torch.zeros_like(ids), alive
    for spec in cut_stages(model, decision_layers(model)):
        outputs = Stage(model, spec)(first, second, third)
        first, second, third = outputs[0], outputs[1], outputs[2]
        if not spec.last:
            kept = original(third.numpy())
            for row in range(len(ids)):
                survivors = set(kept[row][second[row].numpy() > 0].tolist())
                assert set(position[ours[row]].tolist()) <= survivors
    torch.testing.assert_close(outputs[0], expected.logits, rtol=0, atol=1e-5)
    assert int(outputs[2].min()) >= 0, "the last stage gives places in the text"


@pytest.mark.parametrize("kind", ["soft", "straight_through", "hard"])
def test_training_keeps_the_query_whole(kind: str) -> None:
    model = model_of("ltp" if kind == "soft" else "transkimmer")
    if kind == "soft":
        model.pruner.learn()  # type: ignore[operator]
    ids, mask, ours = pairs([5, 5], [9, 9])
    relaxation = Relaxation(model, kind, 0.1)
    relaxation.start(mask)
    state = model.walk(model.embed(ids, torch.zeros_like(ids), mask), model.steps, relaxation)
    if kind == "hard":
        assert (state.protected & (state.alive > 0)).sum() == ours.sum()
    else:
        assert state.keep is not None
        assert (state.keep[ours] == 1).all()
        assert (state.keep[mask.bool() & ~ours] < 1).any()


def test_the_exported_graph_protects_the_query(tmp_path: Path) -> None:
    import onnxruntime

    from pipeline.graph.export import export_stage

    model = model_of("transkimmer")
    ids, mask, _ = pairs([6, 3], [9, 12])
    spec = cut_stages(model, [0])[0]
    stage = Stage(model, spec)
    file = tmp_path / "stage.onnx"
    export_stage(stage, model.config, file)
    feeds = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "alive": mask}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    outputs = session.run(
        list(stage.output_names), {name: v.to(torch.int32).numpy() for name, v in feeds.items() if name in wanted}
    )
    expected = stage(ids, torch.zeros_like(ids), mask.int())
    for name, mine, theirs in zip(stage.output_names, expected, outputs, strict=True):
        np.testing.assert_allclose(theirs, mine.detach().numpy(), atol=1e-5, err_msg=name)
    assert int(outputs[3].max()) < ids.shape[1], "some token of a passage must die"
