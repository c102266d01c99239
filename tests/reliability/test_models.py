"""Malformed checkpoints and tokenizers: what builds, converts and trains from them refuses them, and says why."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import build, convert, train
from tests.gates.builds import classifier
from tests.reliability.json_edits import edit_leaf
from tests.reliability.outcome import Outcome, outcome_of
from tests.reliability.spoil import displace, spoiled
from tests.reliability.trials import Trials

DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool, torch.float8_e4m3fn, torch.complex64)


def edited_json(path: Path, generator: random.Random) -> str:
    """Other values in a JSON file."""
    content = json.loads(path.read_text("utf-8"))
    said = [edit_leaf(content, generator, odd=True) for _ in range(generator.choice([1, 1, 3]))]
    path.write_text(json.dumps(content), "utf-8")
    return f"{path.name}: {'; '.join(said)}"[:300]


def other_tensor(value: Tensor, generator: random.Random) -> Tensor:
    """A tensor of another type, shape or content."""
    way = generator.choice(["type", "shape", "value", "value"])
    if way == "type":
        return value.to(generator.choice(DTYPES))
    if way == "shape":
        shapes = (
            value.flatten(),
            value[None],
            value[:-1],
            torch.cat([value, value]),
            value[:0],
            value.mT if value.dim() > 1 else value[0],
        )
        return generator.choice(shapes).contiguous()
    changed = value.clone()
    filler = generator.choice([float("nan"), float("inf"), -float("inf"), 1e38, 1e-40, 1e30, 0.0])
    if generator.random() < 0.5:
        changed.fill_(filler)
    else:
        changed.flatten()[generator.randrange(changed.numel())] = filler
    return changed


def edited_tensors(path: Path, generator: random.Random) -> str:
    """Other tensors in a file of weights."""
    tensors = load_file(path)
    name = generator.choice(sorted(tensors))
    way = generator.choice(["drop", "rename", "add", "change", "change", "change"])
    if way == "drop":
        del tensors[name]
    elif way == "rename":
        tensors[generator.choice(["", "module.", "\ud7ff", "a" * 500]) + name[::-1]] = tensors.pop(name)
    elif way == "add":
        tensors[f"module.{name}"] = tensors[name].clone()
    else:
        tensors[name] = other_tensor(tensors[name], generator)
    save_file(tensors, path, {"format": "pt"})
    return f"{path.name}: {way} {name}"


def spoiled_file(path: Path, generator: random.Random) -> str:
    """Other bytes; of weights the header as often as the numbers."""
    content = path.read_bytes()
    if path.suffix == ".safetensors" and generator.random() < 0.7:
        header = 8 + int.from_bytes(content[:8], "little")
        changed, said = spoiled(content[:header], generator)
        content = changed + content[header:]
        if generator.random() < 0.5:  # a length that fits
            content = (len(changed) - 8 if len(changed) > 8 else 2**60).to_bytes(8, "little") + content[8:]
    else:
        content, said = spoiled(content, generator)
    path.write_bytes(content)
    return f"{path.name}: {said}"


def malformed(model: Path, generator: random.Random) -> str:
    """Changes one file of a model; says how."""
    path = model / generator.choice(sorted(p.name for p in model.iterdir()))
    if generator.random() < 0.06:
        return displace(path, generator)
    if generator.random() < 0.35:
        return spoiled_file(path, generator)
    return (edited_tensors if path.suffix == ".safetensors" else edited_json)(path, generator)


@pytest.fixture(scope="module")
def classes(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face model of three classes."""
    import transformers

    home = tmp_path_factory.mktemp("models") / "huggingface"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    labels = dict(enumerate(["no", "maybe", "yes"]))
    config = transformers.BertConfig(vocab_size=60, max_position_embeddings=34, id2label=labels, **sizes)
    transformers.BertForSequenceClassification(config).eval().save_pretrained(home)
    shutil.copy(tiny_tokenizer, home / "tokenizer.json")
    return home


Verbs = dict[str, tuple[Path, Callable[[Path], Outcome]]]


@pytest.fixture
def verbs(
    classes: Path, tiny_tokenizer: Path, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Verbs]:
    """All that reads a model, and a model that it reads; training up to where its work starts."""
    built = classifier(tiny_tokenizer)

    def stop(*arguments: object, **named: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(train, "make_progress", stop)
    monkeypatch.setenv("SKIMRT_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    building = ("--data", built.data, "--stages", 1, "--buckets", "1x32", "--samples", 4, "--threads", 1)
    data = tmp_path / "texts.tsv"
    data.write_text(
        "".join(f"{label}\tw5 w{number} w7\n" for number in range(8, 16) for label in ("no", "maybe", "yes"))
    )
    training = ("--data", data, "--dev-data", data, "--max-length", 16, "--out", tmp_path / "run")

    def built_from(model: Path) -> Outcome:
        return outcome_of(build, "--checkpoint", model, *building, "--out", out, "--force", "--no-resume")

    yield {
        "build": (built.checkpoint, built_from),
        "build of Hugging Face": (classes, built_from),
        "convert": (
            classes,
            lambda model: outcome_of(convert, "--from", "huggingface", model, tmp_path / f"converted-{model.name}"),
        ),
        "train --init": (
            built.checkpoint,
            lambda model: outcome_of(train, "--method", "ltp", "--init", model, *training),
        ),
        "train --backbone": (
            tiny_backbone,
            lambda model: outcome_of(train, "--method", "transkimmer", "--backbone", model, *training),
        ),
    }


@pytest.mark.parametrize("trials", Trials.of("malformed checkpoints and tokenizers", 300, sample=10), indirect=True)
def test_a_malformed_model_is_taken_or_refused(trials: Trials, verbs: Verbs, tmp_path: Path) -> None:
    for number in range(trials.count):
        name = list(verbs)[number % len(verbs)]
        source, verb = verbs[name]
        model = Path(shutil.copytree(source, tmp_path / str(number)))
        trials.begin(f"{name}: {malformed(model, trials.generator)}")
        found = verb(model)
        result = {0: "taken", 3: "failed a gate"}.get(found.code, "refused")
        trials.expect(f"{name.partition(' ')[0]}: {result}", found.problem)
        shutil.rmtree(model)
    trials.end()
