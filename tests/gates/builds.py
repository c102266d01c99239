"""Real builds of tiny models, made once per session beside its tokenizer, and what tests do with copies of them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from engines.artifact import Artifact, digest_files
from engines.manifest import MANIFEST_NAME, Gate
from engines.manifest_file import sealed, write_manifest
from engines.tokenization import TextEncoder
from pipeline import build, parity
from pipeline.cli import main_of
from pipeline.gates import Reference
from pipeline.model import PrunedTransformer, save_checkpoint
from pipeline.model.checkpoint import CONFIG_NAME, read_config
from tests.graph.small import random_samples, small_model

BUCKETS = "1x16,1x32,2x32"
SETTINGS = ("--precision", "fp32", "--buckets", BUCKETS, "--samples", "12", "--threads", "1")


@dataclass(frozen=True)
class Built:
    """A published artifact and what it was built from; `dense` is the checkpoint that it was compared with."""

    artifact: Path
    checkpoint: Path
    data: Path
    dense: Path | None = None

    def copied(self, folder: Path) -> Path:
        """A copy of the artifact, with the dense one beside it, that a test may damage."""
        for path in self.artifact.parent.glob("artifact*"):
            shutil.copytree(path, folder / path.name)
        return folder / "artifact"


def run_verb(module: ModuleType, *arguments: object) -> int:
    """The exit code of `python -m pipeline.<module> arguments`, run in this process."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        main_of(module.parser, module.run)
    return int(ended.value.code or 0)


@cache
def classifier(tokenizer: Path) -> Built:
    """LTP of two layers in two stages against dense, on texts whose labels are what the dense model says of them."""
    folder = tokenizer.parent / "classifier"
    dense = small_model("dense")
    checkpoint = _save(small_model("ltp", layers=2), folder / "ltp", tokenizer)
    built = Built(folder / "artifact", checkpoint, folder / "data.tsv", _save(dense, folder / "dense", tokenizer))
    samples = random_samples(24)
    texts = [" ".join(f"w{i}" for i in sample.input_ids[2:]) for sample in samples[::2] + samples[1::2]]
    logits = Reference.of(dense, TextEncoder(tokenizer, dense.config.max_length)(texts)).logits
    says = [dense.config.head.labels[int(row.argmax())] for row in logits]
    built.data.write_text("".join(f"{label}\t{text}\n" for label, text in zip(says, texts, strict=True)), "utf-8")
    model = ("--checkpoint", checkpoint, "--dense", built.dense, "--data", built.data, "--stages", 2)
    assert run_verb(build, *model, *SETTINGS, "--max-drop", 100, "--out", built.artifact) == 0
    return built


@cache
def tagger(tokenizer: Path) -> Built:
    """Transkimmer of one layer with a token-level head, on the classifier's texts."""
    folder, data = tokenizer.parent / "tagger", classifier(tokenizer).data
    checkpoint = _save(small_model("transkimmer", head="tagging"), folder / "transkimmer", tokenizer)
    built = Built(folder / "artifact", checkpoint, data)
    assert run_verb(build, "--checkpoint", checkpoint, "--data", data, *SETTINGS, "--out", built.artifact) == 0
    return built


@cache
def texts(folder: Path) -> Path:
    """Unlabelled-for-the-model calibration texts of every bucket."""
    path = folder / "calibration.tsv"
    rows = [" ".join(f"w{4 + (7 * n + k) % 50}" for k in range(2 + n % 28)) for n in range(48)]
    path.write_text("".join(f"other\t{row}\n" for row in rows), "utf-8")
    return path


def build_int8(built: Built, out: Path, *more: object) -> int:
    """The exit code of an INT8 build of the classifier."""
    model = ("--checkpoint", built.checkpoint, "--dense", built.dense, "--data", built.data, "--stages", 2)
    calibration = ("--precision", "int8", "--calibration", texts(out.parent))
    return run_verb(build, *model, *SETTINGS, "--max-drop", 100, *calibration, *more, "--out", out)


@cache
def quantised(tokenizer: Path) -> Path:
    """The classifier's artifact in INT8, every engine of it, by a clock that finds it faster."""
    out = tokenizer.parent / "int8" / "artifact"
    out.parent.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("calib.int8.selection._speedup", lambda wide, int8, clock: 2.0)
        assert build_int8(classifier(tokenizer), out) == 0
    return out


def parity_gates(capsys: pytest.CaptureFixture[str], artifact: Path, *more: object) -> tuple[int, dict[str, Gate]]:
    """The exit code of parity on four texts, and its gates by name."""
    capsys.readouterr()
    code = run_verb(parity, artifact, "--samples", 4, "--threads", 1, "--json", *more)
    said = capsys.readouterr().out
    return code, {gate["name"]: Gate(**gate) for gate in json.loads(said or "[]")}


def reversed_labels(built: Built, folder: Path) -> Path:
    """Its dense checkpoint with the classes in the other order."""
    assert built.dense is not None
    other = shutil.copytree(built.dense, folder / "reversed")
    config = read_config(other)
    head = config.head.model_copy(update={"labels": config.head.labels[::-1]})
    (other / CONFIG_NAME).write_text(config.model_copy(update={"head": head}).model_dump_json(), "utf-8")
    return other


def reseal(artifact: Path) -> None:
    """Makes the manifest vouch for the files as they are now, as somebody who changes them on purpose would."""
    manifest = Artifact.open(artifact, verify=False).manifest
    write_manifest(artifact, manifest.model_copy(update={"files": digest_files(artifact)}))


def edit_manifest(artifact: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Changes the JSON of a manifest, which need not be valid afterwards, and seals it again."""
    path = artifact / MANIFEST_NAME
    content = json.loads(path.read_text("utf-8"))
    edit(content)
    path.write_bytes(sealed(content))


def set_attribute(graph: Path, name: str, value: float) -> None:
    """Changes an attribute of the graph's TokenCompact."""
    model = onnx.load(graph)
    (node,) = (node for node in model.graph.node if node.op_type == "TokenCompact")
    (attribute,) = (a for a in node.attribute if a.name == name)
    attribute.CopyFrom(onnx.helper.make_attribute(name, value))
    onnx.save(model, graph)


def _save(model: PrunedTransformer, directory: Path, tokenizer: Path) -> Path:
    save_checkpoint(model.config, dict(model.state_dict()), directory, tokenizer)
    return directory


def model_of(built: Built) -> tuple[object, ...]:
    """The arguments that name what is built, without the dense checkpoint."""
    return ("--checkpoint", built.checkpoint, "--data", built.data, "--stages", 2, *SETTINGS)
