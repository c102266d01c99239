"""Stages of every family as graphs: what two runtimes and TensorRT-RTX make of each part, with rows that have moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest
import torch

from calib.int8.equalise import equalised
from calib.int8.qdq import quantize_graphs
from calib.int8.ranges import choose_ranges, collect_histograms
from calib.int8.scheme import QuantizationScheme, quantizable_layers
from calib.int8.simulation import simulate
from engines.backends.layers import fused_attention, fusible_attention
from engines.tokenization import Tokens
from pipeline.graph.evaluate import GraphSession
from pipeline.graph.export import example_inputs, export_stage
from pipeline.graph.stages import Stage, cut_stages, decision_layers
from pipeline.model import PrunedTransformer
from tests.graph.test_fusion import planned_layers
from tests.model.families import LAYERS, LONGEST, MAIN, WORDS, load_dense, load_pruned

Arrays = dict[str, np.ndarray]
JINA = "jina", "jina-code"


def inputs_of(stage: Stage, model: PrunedTransformer) -> Arrays:
    """Three texts of up to 11 rows; behind the first stage these come from all over the text."""
    values = dict(zip(stage.input_names, example_inputs(stage, model.config, 3, 11), strict=True))
    if "position" in values:
        generator = torch.Generator().manual_seed(1)
        places = [torch.randperm(LONGEST - 2, generator=generator)[:11].sort().values for _ in range(3)]
        values["position"] = torch.stack(places).int()
    elif model.config.encoder.type_vocab_size > 1:
        values["token_type_ids"] = (torch.arange(11) > 5).int().expand(3, -1).contiguous()
    return {name: value.numpy() for name, value in values.items()}


def in_openvino(path: Path, feed: Arrays, names: tuple[str, ...]) -> list[np.ndarray]:
    import openvino

    inlined = path.with_suffix(".inlined.onnx")
    onnx.save(onnx.inliner.inline_local_functions(onnx.load(path)), inlined)
    compiled = openvino.Core().compile_model(inlined, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    read = {port.any_name for port in compiled.inputs}  # without token_type_ids where no part reads them
    found = compiled({name: value for name, value in feed.items() if name in read})
    return [found[compiled.output(name)] for name in names]


def assert_graph_agrees(model: PrunedTransformer, stage: Stage, path: Path) -> None:
    export_stage(stage, model.config, path)  # which compares with ONNX Runtime, rows where they were
    feed = inputs_of(stage, model)
    with torch.no_grad():
        want = [value.numpy() for value in stage(*map(torch.from_numpy, feed.values()))]
    session, names = GraphSession(path)(feed), stage.output_names
    for found in ([session[name] for name in names], in_openvino(path, feed, names)):
        for ours, theirs in zip(found, want, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4 if theirs.dtype == np.float32 else 0, rtol=0)


# ModernBERT's layer 1 is local and does not decide; layer 2 is global.
@pytest.mark.parametrize(("variant", "last"), [("modernbert", 2), ("mpnet", 1), ("deberta-v3", 1), ("jina-code", 1)])
def test_the_graph_of_each_way_to_know_positions(variant: str, last: int, tmp_path: Path) -> None:
    model = load_pruned(variant, "ltp")
    stage = Stage(model, cut_stages(model, [0, last])[1])
    assert stage.spec.step_names[0] == "feed 0" and stage.spec.step_names[-1] == f"decide {last}"
    assert_graph_agrees(model, stage, tmp_path / "stage.onnx")


def test_the_graph_of_embeddings_without_segments(tmp_path: Path) -> None:
    model = load_pruned("distilbert", "transkimmer")
    stage = Stage(model, cut_stages(model, [0])[0])
    assert_graph_agrees(model, stage, tmp_path / "stage.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ltp", "transkimmer"])
@pytest.mark.parametrize("variant", MAIN)
def test_the_graphs_of_every_family(variant: str, method: str, tmp_path: Path) -> None:
    model = load_pruned(variant, method)
    for spec in cut_stages(model, decision_layers(model)[1:]):
        assert_graph_agrees(model, Stage(model, spec), tmp_path / f"{spec.name}.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(
    "variant", ["distilbert", "electra", "albert", "mpnet", "modernbert", "deberta-v3", "gte", *JINA]
)
def test_attention_that_feeds_no_score_is_one_kernel(variant: str, precision: str, tmp_path: Path) -> None:
    """At a width and a length at which the library fuses BERT's."""
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "max_position_embeddings": 130}
    if variant == "distilbert":
        sizes |= {"dim": 64, "n_heads": 2, "hidden_dim": 128}
    model = load_dense(variant, changes=tuple(sizes.items()))[1]
    (spec,) = cut_stages(model, [])
    path = tmp_path / "stage.onnx"
    export_stage(Stage(model, spec), model.config, path, precision)
    assert fused_attention(planned_layers(path, 8, 128, "SM80")) == fusible_attention(spec.step_names) == LAYERS


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["modernbert", "albert", "deberta-v3", "jina-code"])
def test_int8_reaches_layers_without_a_bias_and_shared_ones(variant: str, tmp_path: Path) -> None:
    model = load_dense(variant)[1]
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(2, WORDS, (20,), generator=generator).tolist() for _ in range(6)]
    histograms = collect_histograms(model, [Tokens(ids, [0] * 20, 20) for ids in texts])
    some, every = equalised(model, histograms), choose_ranges(histograms, "minmax")
    scheme = QuantizationScheme(ranges={**every.ranges, **some.ranges}, shifts=some.shifts)
    (spec,) = cut_stages(model, [])
    source, target = tmp_path / "wide.onnx", tmp_path / "int8.onnx"
    export_stage(Stage(model, spec), model.config, source)
    (layers,) = quantize_graphs([source], scheme, [target])
    assert sorted(layers) == sorted(quantizable_layers(model))
    feed = inputs_of(Stage(model, spec), model)
    with torch.no_grad():
        narrow, wide = (
            Stage(m, spec)(*map(torch.from_numpy, feed.values()))[0] for m in (simulate(model, scheme), model)
        )
    found = torch.from_numpy(GraphSession(target)(feed)["logits"])
    assert (found - narrow).abs().mean() < 0.3 * (found - wide).abs().mean()
