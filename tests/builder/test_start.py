"""What a build starts with is read once, and refused before anything is computed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from calib import data
from pipeline import build
from pipeline.builder import subject
from pipeline.builder.start import Start
from pipeline.model import checkpoint
from tests.gates.builds import classifier, model_of, run_verb


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_build_reads_its_data_and_every_checkpoint_once(
    precision: str, tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, reads = classifier(tiny_tokenizer), Counter[str]()
    examples, weights, start = data.read_examples, checkpoint.read_weights, Start.of

    def counting(name: str, function):  # type: ignore[no-untyped-def]
        def counted(*arguments: object, **more: object) -> object:
            reads[f"{name} {Path(str(arguments[0])).parent.name if name == 'weights' else ''}".strip()] += 1
            return function(*arguments, **more)

        return counted

    texts = tmp_path / "texts.tsv"
    texts.write_text(built.data.read_text("utf-8") * 2, "utf-8")  # INT8 wants more texts than the tests' set has
    monkeypatch.setattr(subject, "read_examples", counting("data", examples))
    monkeypatch.setattr(checkpoint, "read_weights", counting("weights", weights))
    monkeypatch.setattr(Start, "of", counting("starts", start))
    arguments = (*model_of(built), "--data", texts, "--dense", built.dense, "--precision", precision)
    assert run_verb(build, *arguments, "--max-drop", 100, "--out", tmp_path / "artifact") == 0
    # Two builds, that of the dense model in front of the other.
    assert reads == {"data": 1, "weights ltp": 1, "weights dense": 1, "starts": 2}
