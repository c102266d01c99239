"""python -m pipeline.export_triton: a configuration that Triton's own schema reads, and a model that answers."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory, text_format

from engines.runner import Runner
from tests.engines.toy import NAN_WORD, Toy, words
from tests.export_triton.stand_in import load, request
from tests.gates.builds import edit_manifest, run_verb

export_triton = importlib.import_module("pipeline.export_triton.__main__")
TYPES = {"TYPE_STRING": np.object_, "TYPE_FP32": np.float32, "TYPE_INT32": np.int32}
Made = Callable[..., Path]


@pytest.fixture(scope="module")
def artifact_of(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Callable[[str], Path]:
    """A toy artifact of a kind of head."""
    made: dict[str, Path] = {}

    def make(head: str) -> Path:
        if head not in made:
            toy = Toy(head="classification" if head in ("embedding", "multi_label") else head)
            made[head] = toy.write(tmp_path_factory.mktemp(head) / head, tiny_tokenizer)
            if head == "embedding":
                edit_manifest(made[head], lambda content: content.update(head={"kind": head, "size": 2}))
            elif head == "multi_label":
                edit_manifest(made[head], lambda content: content["head"].update(kind=head))
        return made[head]

    return make


def config_of(model: Path) -> dict[str, Any]:
    """config.pbtxt, read with Triton's schema, as Triton hands it to a model."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile((Path(__file__).parent / "model_config.desc").read_bytes())
    schema = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
    read = text_format.Parse((model / "config.pbtxt").read_text("utf-8"), schema())
    return json_format.MessageToDict(read, preserving_proto_field_name=True)


def exported(artifact: Path, repository: Path, *flags: object) -> Path:
    assert run_verb(export_triton, artifact, repository, *flags) == 0
    (model,) = repository.iterdir()
    return model


def test_the_configuration_says_what_was_asked_for(artifact_of, tmp_path: Path) -> None:
    flags = ("--name", "reviews.v1", "--max-batch", 16, "--max-wait-ms", 5, "--instances", 2, "--threads", 1)
    config = config_of(exported(artifact_of("classification"), tmp_path / "repo", *flags, "--queue", 9, "--truncate"))
    assert (config["name"], config["backend"], config["max_batch_size"]) == ("reviews.v1", "python", 16)
    batching = config["dynamic_batching"]
    assert batching["max_queue_delay_microseconds"] == "5000"
    assert batching["default_queue_policy"]["max_queue_size"] == 9
    assert [(one["count"], one["kind"]) for one in config["instance_group"]] == [(2, "KIND_CPU")]
    assert {name: one["string_value"] for name, one in config["parameters"].items()} == {
        "truncate": "true",
        "threads": "1",
    }
    assert [(one["name"], one.get("optional", False)) for one in config["input"]] == [
        ("TEXT", False),
        ("TEXT_PAIR", True),
    ]


HEADS = ["classification", "multi_label", "regression", "ranking", "embedding", "question_answering", "tagging"]


@pytest.mark.parametrize("head", HEADS)
def test_every_head_gives_the_outputs_that_the_configuration_names(
    artifact_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    model = exported(artifact_of(head), tmp_path, "--threads", 1)
    config = config_of(model)
    (response,) = load(model, config, monkeypatch).execute([request("w7", "w8 w9", pairs=["w9", "w10 w11"])])
    outputs = response.outputs()
    assert response.error is None and outputs.keys() == {one["name"] for one in config["output"]}
    for one in config["output"]:
        assert outputs[one["name"]].shape == (2, int(one["dims"][0])), one["name"]
        assert outputs[one["name"]].dtype == TYPES[one["data_type"]], one["name"]
    expected = Runner(artifact_of(head), threads=1)([("w7", "w9"), ("w8 w9", "w10 w11")])
    assert outputs["TOKENS"][:, 0].tolist() == [one.tokens for one in expected]
    assert outputs["RETENTION"].tolist() == [one.retention for one in expected]
    records = [json.loads(record) for (record,) in outputs["RECORD"]]
    assert [record.keys() for record in records] == [one.record().keys() for one in expected]


def test_requests_of_one_call_get_their_own_answers_and_errors(
    artifact_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = artifact_of("classification")
    model = exported(artifact, tmp_path, "--threads", 1)
    instance, calls = load(model, config_of(model), monkeypatch), []
    answers = instance.runner.answers
    monkeypatch.setattr(instance.runner, "answers", lambda inputs: calls.append(len(inputs)) or answers(inputs))
    requests = [
        request("w7 w8", "w9"),
        request("w7", ""),
        request(f"w5 w{NAN_WORD}"),
        request(b"w7 \xff"),
        request(words(40)),
        request("w10"),
    ]
    good, empty, nan, binary, long, last = instance.execute(requests)
    assert calls == [8]  # one call for all
    plain = Runner(artifact, threads=1)
    for response, texts in ((good, ["w7 w8", "w9"]), (last, ["w10"])):
        outputs, expected = response.outputs(), plain(texts)
        assert [label.decode() for (label,) in outputs["LABEL"]] == [one.label for one in expected]
        np.testing.assert_allclose(outputs["LOGITS"], [one.logits for one in expected], atol=1e-5)
        np.testing.assert_allclose(outputs["SCORE"][:, 0], [one.probability for one in expected], atol=1e-5)
    for response, message in (
        (empty, "text 2: expected at least one word"),
        (binary, "text 1: expected valid Unicode"),
        (long, "text 1: 42 tokens, the model takes 24"),
    ):
        assert response.error.code == "INVALID_ARG" and message in response.error.message
        assert not response.output_tensors
    assert nan.error.code == "INTERNAL" and "expected finite values, found NaN" in nan.error.message


def test_texts_are_cut_where_the_export_says_so(artifact_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = exported(artifact_of("classification"), tmp_path, "--truncate")
    (response,) = load(model, config_of(model), monkeypatch).execute([request(words(40))])
    assert response.outputs()["TOKENS"].tolist() == [[24]]


def test_a_link_is_followed_and_a_copy_is_whole(artifact_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = artifact_of("ranking")
    copy, link = exported(artifact, tmp_path / "a"), exported(artifact, tmp_path / "b", "--link")
    assert (link / "1" / "artifact").resolve() == artifact.resolve()
    names = {path.relative_to(artifact) for path in artifact.rglob("*") if path.is_file()}
    kept = copy / "1" / "artifact"
    assert {path.relative_to(kept) for path in kept.rglob("*") if path.is_file()} == names
    for model in (copy, link):
        (response,) = load(model, config_of(model), monkeypatch).execute([request("w7", pairs=["w8"])])
        assert response.outputs()["SCORE"].shape == (1, 1)


def test_what_cannot_be_written_is_refused(artifact_of, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = artifact_of("classification")
    exported(artifact, tmp_path / "repo", "--name", "taken")
    for arguments, message in (
        ((tmp_path / "repo", "--name", "taken"), "found one of that name; remove it or choose a --name"),
        ((tmp_path / "repo", "--name", "a/b", "--queue", 0), "--name: expected letters, digits"),
        ((tmp_path / "repo", "--max-wait-ms", "nan"), "--max-wait-ms: expected 0 to 10000, found nan"),
        ((artifact / "repo",), "lies inside the artifact; choose another folder"),
        ((artifact / "manifest.json",), "lies inside the artifact"),
        ((Path("/proc/repo"),), "REPO /proc/repo: cannot be written"),
    ):
        assert run_verb(export_triton, artifact, *arguments) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "repo").iterdir()] == ["taken"]


def test_the_result_is_printed_for_programs(artifact_of, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(artifact_of("embedding"), tmp_path, "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["model"] == str(tmp_path / "embedding") and "EMBEDDING" in said["outputs"]
