"""What TensorRT-RTX, which plans without a GPU, makes of typed stage graphs: attention must be one kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engines.backends.layers import Layer, fused_attention, fusible_attention, parse_build_log
from pipeline.graph.export import export_stage
from pipeline.graph.stages import Stage, cut_stages, decision_layers
from pipeline.model import CheckpointConfig, PrunedTransformer, load_checkpoint
from pipeline.model.config import EncoderConfig, HeadConfig, PrunerConfig

CHECKPOINTS = Path(__file__).parents[2] / "demo" / "checkpoints"
PRUNERS = {
    "ltp": PrunerConfig(method="ltp", thresholds=[0.0, 0.01], reference_length=128),
    "transkimmer": PrunerConfig(method="transkimmer", predictor_hidden=16),
}


def planned_layers(graph: Path, batch: int, length: int, capability: str) -> list[Layer]:
    """The layers of an engine of that shape for that compute capability."""
    trt = pytest.importorskip("tensorrt_rtx")

    class Log(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def log(self, severity: object, message: str) -> None:
            self.messages.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    assert trt.OnnxParser(network, log).parse_from_file(str(graph)), log.messages[-3:]
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        tensor.shape = (batch, length, *tuple(tensor.shape)[2:])
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    assert builder.build_serialized_network(network, config) is not None, log.messages[-3:]
    return parse_build_log("\n".join(log.messages))


def assert_fused(model: PrunedTransformer, precision: str, capabilities: tuple[str, ...], folder: Path) -> int:
    """Every attention that feeds no score is one kernel, wherever the model is cut; returns how many there are."""
    total = 0
    for cuts in ([], decision_layers(model)):
        for spec in cut_stages(model, cuts):
            path = folder / f"{len(cuts)}_{spec.name}.onnx"
            export_stage(Stage(model, spec), model.config, path, precision)
            expected = fusible_attention(spec.step_names)
            for capability in capabilities:
                layers = planned_layers(path, 8, 128, capability)
                assert layers and fused_attention(layers) == expected, (spec.step_names, capability)
            total += expected
    return total


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", PRUNERS)
def test_attention_that_feeds_no_score_is_one_kernel(tmp_path: Path, method: str, precision: str) -> None:
    torch.manual_seed(0)
    encoder = EncoderConfig(
        family="bert", vocab_size=60, hidden_size=64, layers=2, heads=2, intermediate_size=128, max_positions=128
    )
    config = CheckpointConfig(
        encoder=encoder, head=HeadConfig(labels=["no", "yes"]), pruner=PRUNERS[method], max_length=128
    )
    found = assert_fused(PrunedTransformer(config).eval(), precision, ("SM80", "SM89"), tmp_path)
    assert found == {"ltp": 2, "transkimmer": 4}[method]  # whole and cut


@pytest.mark.slow
@pytest.mark.parametrize("method", PRUNERS)
def test_attention_of_the_demo_checkpoints_is_one_kernel(tmp_path: Path, method: str) -> None:
    model = load_checkpoint(CHECKPOINTS / method)
    deciding = set(decision_layers(model)) if method == "ltp" else set()
    found = assert_fused(model, "fp16", ("SM80", "SM89"), tmp_path)
    assert found == 2 * (model.config.encoder.layers - len(deciding))
