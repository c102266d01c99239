"""Directories of sentence-transformers as embedders: what they compute, in every execution and in stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch.nn import functional as F

from engines.errors import InputError
from pipeline.gates.states import walk_states
from pipeline.graph.evaluate import run_module
from pipeline.graph.stages import Stage, cut_stages, decision_layers
from pipeline.model import CheckpointConfig, PrunedTransformer, load_checkpoint
from pipeline.model.checkpoint import checkpoint_digest
from pipeline.model.config import HeadConfig
from tests.conftest import LONGEST, METHODS, WIDTH, TinyModel
from tests.model.families import make_original, random_text, run_original
from tests.model.samples import as_tokens, assert_same, make_samples, run

_TYPE = "sentence_transformers.models."
MEAN, FIRST = {"pooling_mode_mean_tokens": True}, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
DENSE = {"in_features": 32, "out_features": 12, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}


def embedder(folder: Path, variant: str, *modules: tuple[str, dict[str, Any]]) -> Any:
    """transformers' encoder of a variant, saved with these modules behind it."""
    original = make_original(variant, "Model")
    original.save_pretrained(folder)
    listed = [{"idx": 0, "name": "0", "path": "", "type": f"{_TYPE}Transformer"}]
    for number, (kind, config) in enumerate(modules, 1):
        home = folder / f"{number}_{kind}"
        home.mkdir()
        (home / "config.json").write_text(json.dumps(config), "utf-8")
        listed.append({"idx": number, "name": str(number), "path": home.name, "type": f"{_TYPE}{kind}"})
    (folder / "modules.json").write_text(json.dumps(listed), "utf-8")
    return original


@pytest.mark.parametrize("variant", ["bert", "mpnet", "distilbert", "modernbert", "nomic", "jina"])
@pytest.mark.parametrize(("pooling", "normalised"), [(MEAN, True), (FIRST, False)], ids=["mean", "first"])
def test_it_pools_as_sentence_transformers_does(
    tmp_path: Path, variant: str, pooling: dict[str, bool], normalised: bool
) -> None:
    modules = [("Pooling", pooling), *([("Normalize", {})] if normalised else [])]
    original = embedder(tmp_path, variant, *modules)
    model = load_checkpoint(tmp_path)
    text = random_text([30, 7, 19], model.config.encoder.type_vocab_size, 0)
    states, _ = run_original(original, *text, model.config.encoder.pad_token_id)
    mask = text[1][:, :, None].float()
    wanted = (states * mask).sum(1) / mask.sum(1) if pooling is MEAN else states[:, 0]
    with torch.no_grad():
        found = model(*text).logits
    torch.testing.assert_close(found, F.normalize(wanted, dim=-1) if normalised else wanted, atol=1e-5, rtol=0)


def test_jina_without_modules_pools_as_its_configuration_says(tmp_path: Path) -> None:
    original = make_original("jina", "Model", emb_pooler="mean")
    original.save_pretrained(tmp_path)
    model, text = load_checkpoint(tmp_path), random_text([30, 7, 19], 2, 0)
    assert (model.config.head.kind, model.config.head.size) == ("embedding", 32)
    states, mask = run_original(original, *text, 0)[0], text[1][:, :, None].float()
    with torch.no_grad():
        found = model(*text).logits
    torch.testing.assert_close(found, (states * mask).sum(1) / mask.sum(1), atol=1e-5, rtol=0)
    make_original("jina", emb_pooler="mean").save_pretrained(tmp_path)
    assert load_checkpoint(tmp_path).config.head.kind == "classification"


def test_a_dense_layer_stands_behind_the_mean(tmp_path: Path) -> None:
    original = embedder(tmp_path, "bert", ("Pooling", MEAN), ("Dense", DENSE), ("Normalize", {}))
    layer = torch.nn.Linear(32, 12)
    weights = {f"linear.{name}": value.detach() for name, value in layer.named_parameters()}
    save_file(weights, tmp_path / "2_Dense" / "model.safetensors")
    model, text = load_checkpoint(tmp_path), random_text([30, 7, 19], 2, 0)
    states, _ = run_original(original, *text, 0)
    mask = text[1][:, :, None].float()
    with torch.no_grad():
        wanted = F.normalize(torch.tanh(layer((states * mask).sum(1) / mask.sum(1))), dim=-1)
        torch.testing.assert_close(model(*text).logits, wanted, atol=1e-5, rtol=0)
    before = checkpoint_digest(tmp_path)
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "2_Dense" / "model.safetensors")
    assert checkpoint_digest(tmp_path) != before


def test_a_classifier_of_modernbert_reads_the_mean_where_it_says_so(tmp_path: Path) -> None:
    original = make_original("modernbert", classifier_pooling="mean")
    original.save_pretrained(tmp_path)
    model, text = load_checkpoint(tmp_path), random_text([30, 7, 19], 0, 0)
    _, wanted = run_original(original, *text, 0)
    with torch.no_grad():
        torch.testing.assert_close(model(*text).logits, wanted.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([("Pooling", {"pooling_mode_max_tokens": True})], "pooling must be .*, found max_tokens"),
        ([("Pooling", {**FIRST, "pooling_mode_mean_tokens": True})], "found cls_token, mean_tokens"),
        ([("Pooling", MEAN), ("WordWeights", {})], "found WordWeights"),
        ([("Pooling", MEAN), ("Normalize", {}), ("Dense", DENSE)], "in this order, found Dense"),
        ([("Pooling", MEAN), ("Dense", {**DENSE, "in_features": 7})], "expected in_features 32"),
        ([("Pooling", MEAN), ("Dense", {**DENSE, "activation_function": "a.Mish"})], "activation_function .* Mish"),
    ],
)
def test_what_it_cannot_do_is_refused(tmp_path: Path, modules: list, message: str) -> None:
    embedder(tmp_path, "bert", *modules)
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path)


def pooled(tiny_model: TinyModel, method: str, translated: bool = False, **pruner: Any) -> PrunedTransformer:
    """The tiny model with an embedding of the mean, perhaps with translators at random."""
    base = tiny_model(method, **pruner)
    head = HeadConfig(kind="embedding", size=WIDTH, pooling="mean", normalise=True)
    rule = base.config.pruner.model_copy(update={"translated": translated})
    config = CheckpointConfig(encoder=base.config.encoder, head=head, pruner=rule, max_length=LONGEST)
    model = PrunedTransformer(config)
    model.load_state_dict(
        {name: value for name, value in base.state_dict().items() if not name.startswith("head.")},
        strict=not translated,
    )
    if model.pruner.translators is not None:
        torch.manual_seed(4)
        for parameter in model.pruner.translators.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("translated", [False, True])
@pytest.mark.parametrize("protect", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_dropped_token_adds_its_last_state_wherever_the_model_is_cut(
    tiny_model: TinyModel, method: str, protect: bool, translated: bool
) -> None:
    model = pooled(tiny_model, method, translated, protect_first=protect)
    samples = make_samples(model, [5, 17, 30, 9], 1)
    masked = run(model, samples)
    assert_same(run(model, samples, "compacted"), masked)
    tokens = as_tokens(samples)
    layers = decision_layers(model)
    for cuts in ([], layers[:1], layers[1:2], layers):
        (last, states) = list(walk_states(model, cut_stages(model, cuts), tokens))[-1]
        for state, wanted in zip(states, masked, strict=True):
            found = run_module(Stage(model, last), {name: value[None] for name, value in state.items()})
            assert abs(found["logits"][0] - wanted.logits.numpy()).max() < 1e-6


def test_only_a_mean_has_translators(tiny_model: TinyModel) -> None:
    base = tiny_model("ltp").config
    pruner = base.pruner.model_copy(update={"translated": True})
    with pytest.raises(ValidationError, match=r"pruner\.translated is of a head that reads the mean of all tokens"):
        CheckpointConfig(encoder=base.encoder, head=base.head, pruner=pruner, max_length=LONGEST)


def test_a_prompt_that_nothing_puts_in_front_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    embedder(tmp_path, "bert", ("Pooling", {**MEAN, "include_prompt": False}))
    settings = {"prompts": {"query": "query: ", "passage": ""}, "default_prompt_name": None}
    source = tmp_path / "config_sentence_transformers.json"
    for name in (None, "passage"):
        source.write_text(json.dumps({**settings, "default_prompt_name": name}), "utf-8")
        load_checkpoint(tmp_path)
    assert not caplog.text
    source.write_text(json.dumps({**settings, "default_prompt_name": "query"}), "utf-8")
    with pytest.raises(InputError, match=r"include_prompt must be true: .* such as those of 'query: '"):
        load_checkpoint(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(MEAN), "utf-8")
    load_checkpoint(tmp_path)
    assert caplog.messages == [f"{tmp_path}: its texts begin with 'query: ': write it into them"]


def test_modules_of_a_directory_own_code_are_refused(tmp_path: Path) -> None:
    embedder(tmp_path, "bert", ("Pooling", MEAN))
    listed = (tmp_path / "modules.json").read_text("utf-8")
    (tmp_path / "modules.json").write_text(listed.replace(f"{_TYPE}Transformer", "custom_st.Transformer"), "utf-8")
    with pytest.raises(InputError, match=r"expected those of sentence_transformers, found custom_st\.Transformer"):
        load_checkpoint(tmp_path)
