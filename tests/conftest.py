"""Tiny random models, checkpoints and data that every package's tests use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

from engines.quiet import onnxruntime_package, openvino_package
from pipeline.builder import profile
from pipeline.model import CheckpointConfig, PrunedTransformer, save_checkpoint
from pipeline.model.config import EncoderConfig, HeadConfig, PrunerConfig
from pipeline.model.weights import write_weights
from tests.exports import KeptExports, keep_operators

for library, imported in (("openvino", openvino_package), ("onnxruntime", onnxruntime_package)):
    if find_spec(library) is not None:
        imported()  # whoever imports it first decides whether it calls home
# Kernels on tensors this small lose more to a second thread than they gain.
torch.set_num_threads(1)
# A busy machine must not fail a property by the clock.
settings.register_profile("skimrt", deadline=None)
settings.load_profile("skimrt")

METHODS = ("dense", "ltp", "transkimmer", "topk", "threshold")
WIDTH, LAYERS, HEADS, INNER, WORDS, LONGEST = 32, 4, 4, 64, 60, 32
LABELS = {
    "classification": ["no", "maybe", "yes"],
    "regression": ["value"],
    "question_answering": ["start", "end"],
    "tagging": ["O", "B", "I"],
}
# Chosen on the random models below so that about half of the tokens are alive at the end.
PRUNERS: dict[str, dict[str, Any]] = {
    "dense": {},
    "ltp": {"thresholds": [0.0] + [0.7 / LONGEST] * 3, "reference_length": LONGEST},
    "transkimmer": {"predictor_hidden": 16},
    "topk": {"keep_rates": [1.0, 0.8, 0.8, 0.75]},
    "threshold": {"thresholds": [0.0, 0.2, 0.2, 0.2]},
}
TinyModel = Callable[..., PrunedTransformer]


def build_tiny_model(
    method: str = "ltp", head: str = "classification", family: str = "bert", seed: int = 0, **pruner: Any
) -> PrunedTransformer:
    """A random model in eval mode; weights depend on `seed` and `head` only, so methods are comparable."""
    encoder = EncoderConfig(
        family=family,
        vocab_size=WORDS,
        hidden_size=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        intermediate_size=INNER,
        max_positions=LONGEST + 2,
        pad_token_id=1 if family == "roberta" else 0,
    )
    config = CheckpointConfig(
        encoder=encoder,
        head=HeadConfig(kind=head, labels=LABELS[head]),
        pruner=PrunerConfig(**{"method": method, **PRUNERS[method], **pruner}),
        max_length=LONGEST,
    )
    model = PrunedTransformer(config)
    generator = torch.Generator().manual_seed(seed)
    modules = sorted(model.named_modules(), key=lambda item: (item[0].startswith("pruner"), item[0]))
    for name, module in modules:
        if isinstance(module, nn.Linear | nn.Embedding):
            # Sharper queries and keys than usual, so that tokens receive clearly different attention.
            gain = 1.5 if name.endswith(("query", "key")) else 1.0
            fan_in = module.weight.shape[1] if isinstance(module, nn.Linear) else 1
            nn.init.normal_(module.weight, std=gain * fan_in**-0.5, generator=generator)
        if isinstance(module, nn.Linear | nn.LayerNorm):
            nn.init.normal_(module.bias, std=0.1, generator=generator)
    if method == "transkimmer":
        for predictor in model.pruner.predictors.values():
            predictor[-1].bias.data += torch.tensor([-0.5, 0.5])
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def few_profiled_lengths() -> Iterator[None]:
    """A toy model's costs are measured at three lengths: every further one is a kernel to compile for each stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "_LENGTHS", 3)
        yield


@pytest.fixture(scope="session", autouse=True)
def kept_exports(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptExports]:
    """Equal stages are traced once by all tests and workers; `traced_anew` is for a test of the trace itself."""
    base = tmp_path_factory.getbasetemp()
    # A worker of pytest-xdist has a folder in that of the session.
    exports = KeptExports((base.parent if hasattr(pytestconfig, "workerinput") else base) / "exports")
    with pytest.MonkeyPatch.context() as patch:
        keep_operators(patch)
        patch.setattr(torch.onnx, "export", exports)
        yield exports


@pytest.fixture
def traced_anew(kept_exports: KeptExports, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every export traces."""
    monkeypatch.setattr(torch.onnx, "export", kept_exports.export)


@pytest.fixture(scope="session")
def tiny_model() -> TinyModel:
    """build_tiny_model, cached: tiny_model(method, head, family, seed, **pruner fields). Do not change it."""

    @lru_cache
    def cached(arguments: str) -> PrunedTransformer:
        return build_tiny_model(**json.loads(arguments))

    names = ("method", "head", "family", "seed")

    def make(*positional, **named) -> PrunedTransformer:
        return cached(json.dumps({**dict(zip(names, positional, strict=False)), **named}))

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json over w4 ... w59 with [PAD], [UNK], [CLS], [SEP]; pairs get segment ids 0 and 1."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*specials, *(f"w{i}" for i in range(4, WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: TinyModel, tiny_tokenizer: Path
) -> Callable[..., Path]:
    """Writes tiny_model(...) as a checkpoint directory of its own and returns it."""

    def make(*positional, **named) -> Path:
        model, directory = tiny_model(*positional, **named), tmp_path_factory.mktemp("checkpoint")
        save_checkpoint(model.config, dict(model.state_dict()), directory, tiny_tokenizer)
        return directory

    return make


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory, tiny_model: TinyModel, tiny_tokenizer: Path) -> Path:
    """A Hugging Face directory of a BERT encoder without a head."""
    return write_backbone(tmp_path_factory.mktemp("backbone"), tiny_model("dense"), tiny_tokenizer)


def write_backbone(directory: Path, model: PrunedTransformer, tokenizer: Path) -> Path:
    """Writes the encoder of a BERT model into a directory as Hugging Face does, without its head."""
    encoder = model.config.encoder
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": encoder.vocab_size,
        "hidden_size": encoder.hidden_size,
        "num_hidden_layers": encoder.layers,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.intermediate_size,
        "max_position_embeddings": encoder.max_positions,
    }
    (directory / "config.json").write_text(json.dumps(config), "utf-8")
    (directory / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    weights = {_huggingface_name(n): v for n, v in model.state_dict().items() if not n.startswith("head.")}
    write_weights(directory / "model.safetensors", weights)
    return directory


def _huggingface_name(name: str) -> str:
    """BERT's own name of one of our encoder's tensors."""
    part, *rest = name.split(".")
    if part == "embeddings":
        table, leaf = rest
        return "embeddings." + ("LayerNorm" if table == "norm" else f"{table}_embeddings") + f".{leaf}"
    layer, inner, leaf = rest
    theirs = {
        ("attention", "output"): "attention.output.dense",
        ("attention", "norm"): "attention.output.LayerNorm",
        ("feed_forward", "up"): "intermediate.dense",
        ("feed_forward", "down"): "output.dense",
        ("feed_forward", "norm"): "output.LayerNorm",
    }.get((part, inner), f"attention.self.{inner}")
    return f"encoder.layer.{layer}.{theirs}.{leaf}"
