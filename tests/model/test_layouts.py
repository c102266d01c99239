"""Hugging Face directories as people have them: labels, tokenizers, activations, modules, parts, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines.errors import InputError
from engines.prediction import SampleResult, predict
from pipeline.model import load_checkpoint
from pipeline.model.checkpoint import read_config
from pipeline.model.huggingface import locate_backbone, read_huggingface
from tests.model.families import make_original, random_text, run_original
from tests.model.saved import IDS, MASK, TYPES, edit_config, logits_of


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"id2label": {"0": "a", "2": "c"}, "label2id": None}, ["a", "LABEL_1", "c"]),
        ({"id2label": None, "label2id": {"c": 2}}, ["LABEL_0", "LABEL_1", "c"]),
        ({"id2label": None, "label2id": None}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {"2": "low", "0": "high", "1": "mid"}}, ["high", "mid", "low"]),
    ],
)
def test_labels_are_as_many_as_the_classifier_has_rows(saved: Path, changes: dict, labels: list[str]) -> None:
    edit_config(saved, **changes)
    assert load_checkpoint(saved).config.head.labels == labels


def test_a_label_without_a_row_is_refused(saved: Path) -> None:
    edit_config(saved, id2label={"0": "a", "3": "d"}, label2id=None)
    with pytest.raises(InputError, match="id2label must name the 3 outputs of the classifier, found index 3"):
        load_checkpoint(saved)


def test_a_tokenizer_without_segments_gives_none(original, saved: Path, expected: Tensor) -> None:
    """transformers' own pipelines pass what the tokenizer gives: pairs without segments."""
    (saved / "tokenizer_config.json").write_text('{"model_input_names": ["input_ids", "attention_mask"]}', "utf-8")
    model = load_checkpoint(saved)
    assert model.config.encoder.type_vocab_size == 1
    want = run_original(original, IDS, MASK, torch.zeros_like(TYPES), 0)[1].logits
    with torch.no_grad():
        torch.testing.assert_close(model(IDS, MASK).logits, want, atol=1e-5, rtol=0)
    assert (want - expected).abs().max() > 1e-3
    assert read_huggingface(saved, backbone=True)[0].encoder.type_vocab_size == 2


@pytest.mark.parametrize(("limit", "longest"), [(17, 17), (10**30, 40), (64, 40), (1e30, 40), (True, 40), (None, 40)])
def test_the_length_is_what_the_tokenizer_and_the_positions_allow(saved: Path, limit, longest: int) -> None:
    (saved / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}), "utf-8")
    assert read_config(saved).max_length == longest


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("sbert_ce_default_activation_function", "torch.nn.modules.activation.Sigmoid"),
        ("sentence_transformers", {"version": "5.0", "activation_fn": "torch.nn.modules.activation.Sigmoid"}),
        ("sbert_ce_default_activation_function", "torch.nn.modules.linear.Identity"),
    ],
)
def test_a_cross_encoder_keeps_its_activation(tmp_path: Path, key: str, name) -> None:
    reranker = make_original("bert", num_labels=1)
    reranker.save_pretrained(tmp_path)
    edit_config(tmp_path, **{key: name})
    want = run_original(reranker, IDS, MASK, TYPES, 0)[1].logits
    sigmoid = "Sigmoid" in str(name)
    torch.testing.assert_close(logits_of(tmp_path), want.sigmoid() if sigmoid else want, atol=1e-5, rtol=0)
    assert read_config(tmp_path).head.kind == "regression"


@pytest.mark.parametrize("name", ["torch.nn.modules.activation.Sigmoid", "torch.nn.modules.activation.Tanh"])
def test_other_activations_are_refused(saved: Path, name: str) -> None:
    edit_config(saved, sbert_ce_default_activation_function=name)
    with pytest.raises(InputError, match=f"must be Identity or Softmax, for a classification head, found '{name}'"):
        load_checkpoint(saved)
    edit_config(saved, sbert_ce_default_activation_function="torch.nn.modules.activation.Softmax")
    assert read_config(saved).head.output == "identity"


def sentence_transformer(folder: Path, *further: tuple[str, dict]) -> Path:
    modules = [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    make_original("bert", "Model").save_pretrained(folder / "0_Transformer")
    for number, (kind, config) in enumerate(further, 1):
        path = f"{number}_{kind}"
        (folder / path).mkdir()
        (folder / path / "config.json").write_text(json.dumps(config), "utf-8")
        modules.append(
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        )
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    return folder


def test_the_encoder_of_sentence_transformers_is_a_backbone(tmp_path: Path) -> None:
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    home = sentence_transformer(tmp_path, ("Pooling", pooling), ("Normalize", {}))
    assert locate_backbone(str(home)) == home
    whole, part = read_huggingface(home, backbone=True), read_huggingface(home / "0_Transformer", backbone=True)
    assert whole[0] == part[0] and whole[1].keys() == part[1].keys()
    assert load_checkpoint(home).config.head.kind == "embedding"


def test_an_encoder_alone_is_no_model(tmp_path: Path) -> None:
    home = sentence_transformer(tmp_path)
    with pytest.raises(InputError) as caught:
        load_checkpoint(home)
    assert f"which has no head; pipeline.train --backbone {home} trains one" in str(caught.value)


def test_a_classifier_of_many_labels_is_that_of_transformers(tmp_path: Path) -> None:
    original = make_original("bert", problem_type="multi_label_classification")
    original.save_pretrained(tmp_path)
    model, text = load_checkpoint(tmp_path), random_text([20, 9], 2, 0)
    labels = model.config.head.labels
    assert model.config.head.kind == "multi_label" and labels == ["LABEL_0", "LABEL_1", "LABEL_2"]
    with torch.no_grad():
        found = model(*text).logits
    wanted = torch.sigmoid(run_original(original, *text, 0)[1].logits)  # as text-classification does with top_k=None
    for row, expected in zip(found.numpy(), wanted.tolist(), strict=True):
        prediction = predict(SampleResult(1, row, [], []), model.config.head)
        assert prediction.probabilities == pytest.approx(dict(zip(labels, expected, strict=True)), abs=1e-5)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ("{}", None),
        ("[7]", "expected a list of modules with a type and a path"),
        ("[]", "expected a module of type Transformer, found none"),
        ('[{"type": "x.Transformer", "path": "../up"}]', "expected a folder in its own, found '../up'"),
        ('[{"type": "x.Transformer", "path": "gone"}]', "gone/config.json: expected a JSON file"),
    ],
)
def test_modules_that_are_none_are_refused(tmp_path: Path, modules: str, message: str | None) -> None:
    (tmp_path / "modules.json").write_text(modules, "utf-8")
    with pytest.raises(InputError, match=message or "expected a module of type Transformer"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("with_base", [False, True])
def test_adapters_of_peft_are_refused(tmp_path: Path, with_base: bool) -> None:
    """Also beside a whole model: transformers would add them to it."""
    if with_base:
        make_original("bert").save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}", "utf-8")
    with pytest.raises(InputError, match="expected a whole model, found adapters of peft; merge them first"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("folder", ["checkpoint-500", "0_Transformer", "snapshots/c5f93f7"])
def test_a_model_in_a_folder_within_is_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    make_original("bert").save_pretrained(tmp_path / folder)
    with pytest.raises(InputError, match=rf"found neither; name {tmp_path / folder}, which has one"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("deberta-v3", {"conv_kernel_size": 3}, "conv_kernel_size must be 0: a convolution over neighbours"),
        ("deberta-v3", {"relative_attention": False}, "relative_attention must be True"),
        ("deberta-v3", {"pos_att_type": ["p2p"]}, "pos_att_type must be of 'c2p' and 'p2c'"),
        ("deberta-v3", {"position_buckets": "many"}, "must be whole numbers, found .* and 'many'"),
        ("deberta-v3", {"pooler_hidden_act": "mish"}, "pooler_hidden_act must be one of .*, found 'mish'"),
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling must be 'cls' or 'mean', found 'max'"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types must be .* for each of 3 layers"),
        ("modernbert", {"local_attention": "wide"}, "local_attention must be a number above 0, found 'wide'"),
        ("modernbert", {"rope_scaling": {"type": "yarn"}}, "rope_scaling must be absent: .* found 'yarn'"),
        ("modernbert", {"rope_parameters": 7}, "rope_parameters must be an object, found 7"),
        ("albert", {"inner_group_num": 2}, "inner_group_num must be 1"),
        ("albert", {"num_hidden_groups": 9}, "layer_groups must be at most layers, found 9 and 3"),
        ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets must be 32"),
        ("mpnet", {"pad_token_id": 0}, "pad_token_id must be 1: MPNet's positions start behind it"),
        ("roberta", {"pad_token_id": -1}, "pad_token_id must be a token's number"),
        ("roberta", {"max_position_embeddings": 2}, "max_positions must exceed position_offset 2"),
        ("distilbert", {"activation": "mish"}, "activation must be one of gelu, .*, found 'mish'"),
        ("electra", {"embedding_size": "wide"}, "embedding_size: .*found 'wide'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type must be 'absolute'"),
        ("bert", {"feed_forward_type": "geglu"}, "feed_forward_type must be 'original': a gated one is of Jina's BERT"),
        ("jina", {"feed_forward_type": "swiglu"}, "feed_forward_type must be 'original' or 'geglu' or 'reglu'"),
        ("jina", {"emb_pooler": "max"}, "emb_pooler must be None or 'mean', found 'max'"),
        ("jina", {"is_decoder": True}, "is_decoder must be false: only encoders are read"),
    ],
)
def test_parts_that_are_not_computed_are_refused(tmp_path: Path, variant: str, changes: dict, message: str) -> None:
    make_original(variant).save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path)


def test_rope_as_transformers_4_writes_it(tmp_path: Path) -> None:
    make_original("modernbert").save_pretrained(tmp_path)
    old = {"global_rope_theta": 5000.0, "local_rope_theta": 700, "global_attn_every_n_layers": 2}
    edit_config(tmp_path, drop=("rope_parameters", "layer_types"), **old)
    encoder = read_config(tmp_path).encoder
    assert (encoder.rope.theta, encoder.rope.local_theta) == (5000, 700)
    assert encoder.local.global_layers == [0, 2] and encoder.local_layers == [1]


def test_nomic_as_its_first_code_writes_it(tmp_path: Path) -> None:
    make_original("nomic").save_pretrained(tmp_path)
    want = read_config(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text("utf-8"))
    names = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    names |= {"intermediate_size": "n_inner", "max_position_embeddings": "n_positions"}
    old = {theirs: raw[name] for name, theirs in names.items()}
    edit_config(tmp_path, (*names, "rope_parameters", "hidden_act"), **old, activation_function="swiglu", prenorm=False)
    assert read_config(tmp_path).encoder == want.encoder
    edit_config(tmp_path, prenorm=True, rotary_emb_fraction=0.5)
    with pytest.raises(InputError, match=r"rotary_emb_fraction must be 1.0, found 0.5\n  - prenorm must be False"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("code", "heads", "warned"),
    [
        ("modeling_bert.JinaBertModel", 6, True),
        ("modeling_bert.JinaBertModel", 4, False),
        ("jinaai/jina-bert-implementation--modeling_bert.JinaBertModel", 6, False),
    ],
)
def test_code_whose_slopes_are_not_known_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: str, heads: int, warned: bool
) -> None:
    make_original("jina-code", num_attention_heads=heads).save_pretrained(tmp_path)
    edit_config(tmp_path, auto_map={"AutoConfig": code, "AutoModel": code})
    read_config(tmp_path)
    assert (f"{code}: the biases of {heads} heads are computed as ALiBi's authors do" in caplog.text) == warned


def test_jina_with_prefixes_and_narrow_weights(tmp_path: Path) -> None:
    original = make_original("jina-code")
    original.tensors = {f"module.{name}": value.bfloat16() for name, value in original.tensors.items()}
    original.save_pretrained(tmp_path)
    original.tensors = {name.removeprefix("module."): value.float() for name, value in original.tensors.items()}
    want = run_original(original, IDS, MASK, TYPES, 0)[1].logits
    torch.testing.assert_close(logits_of(tmp_path), want, atol=1e-5, rtol=0)
    whole, part = read_huggingface(tmp_path), read_huggingface(tmp_path, backbone=True)
    assert whole[0].encoder == part[0].encoder and part[0].encoder.query_key_norm
