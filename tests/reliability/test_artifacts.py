"""Artifacts that were damaged or edited: refused before anything is deserialised, or found by parity."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from calib.data import read_examples
from engines import tokenization
from engines.artifact import Artifact
from engines.backends import BACKENDS
from engines.errors import SkimError
from engines.runner import Runner
from pipeline import inspect, parity, run
from pipeline.graph.once import ExportOnce
from tests.gates.builds import Built, classifier, edit_manifest, quantised
from tests.reliability.json_edits import edit_leaf
from tests.reliability.outcome import outcome_of
from tests.reliability.trials import Trials

EXPORT = ExportOnce()
BETWEEN = ("encoder", "engines", "head", "max_length", "method", "plan", "protect_first")
"""What of a manifest lies between a text and a label."""


@pytest.fixture
def built(tiny_tokenizer: Path) -> Built:
    """The classifier of the session."""
    return classifier(tiny_tokenizer)


@contextmanager
def nothing_deserialised() -> Iterator[None]:
    """Fails if more of an artifact is read than JSON."""
    touched = []

    def fail(*arguments: object, **named: object) -> None:
        touched.append(arguments)
        raise AssertionError("an engine, a graph or a tokenizer was read")

    with pytest.MonkeyPatch.context() as patch:
        for backend in BACKENDS:
            patch.setattr(type(backend), "load", fail)
        patch.setattr(onnx, "load", fail)
        patch.setattr(tokenization, "Tokenizer", SimpleNamespace(from_str=fail, from_buffer=fail))
        yield
    assert not touched


@pytest.fixture
def exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity exports the stages of the classifier once for all trials."""
    monkeypatch.setattr(parity, "export_stage", EXPORT)


def corruptions(artifact: Path, generator: random.Random) -> Generator[str, None, None]:
    """Without end: one byte of one file is another one. Every file is as likely as any other, whatever its size."""
    files = sorted(path for path in artifact.rglob("*") if path.is_file() and path.stat().st_size)
    while True:
        path = generator.choice(files)
        place, change = generator.randrange(path.stat().st_size), generator.randrange(1, 256)
        content = path.read_bytes()
        path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
        yield f"{path.relative_to(artifact)}: byte {place} xor {change}"
        path.write_bytes(content)


def corrupted(trials: Trials, artifacts: list[Path]) -> None:
    for artifact in artifacts:
        said = corruptions(artifact, trials.generator)
        for _ in range(trials.count // len(artifacts)):
            trials.begin(what := next(said))
            for verb, more in ((run, ("--text", "w5 w6")), (inspect, ())):
                trials.expect(f"{verb.__name__}: refused in one line", outcome_of(verb, artifact, *more).refusal)
            found = outcome_of(parity, artifact, "--samples", 4, "--json")
            if found.code == 2:  # a manifest that says nothing any more
                trials.expect("parity: refused in one line", found.refusal)
                continue
            gates = {gate["name"]: gate for gate in json.loads(found.out)} if found.code == 3 else {}
            gate = gates.pop("integrity", {"status": "none", "reason": ""})
            named = what.partition(":")[0] in gate["reason"] and "\n" not in gate["reason"]
            right = named and gate["status"] == "FAILED" and {g["status"] for g in gates.values()} == {"SKIPPED"}
            trials.expect("parity: integrity FAILED in one line", None if right else f"{found.code}: {gate}")
        said.close()
    trials.end()


@pytest.mark.parametrize("trials", Trials.of("single-byte corruptions", 500, sample=10), indirect=True)
def test_a_single_changed_byte_is_refused(trials: Trials, built: Built, tiny_tokenizer: Path, tmp_path: Path) -> None:
    artifacts = [built.artifact, quantised(tiny_tokenizer)] if trials.whole else [built.artifact]
    with nothing_deserialised():
        corrupted(trials, [Path(shutil.copytree(a, tmp_path / str(i))) for i, a in enumerate(artifacts)])


def answers(artifact: Path, texts: list) -> list | None:
    """Of a runner, rounded; None where it refuses the artifact."""
    try:
        runner = Runner(artifact, provider="onnxruntime", threads=1)  # which loads engines faster
        return [(answer.label, np.round(answer.logits, 4).tolist(), answer.retention) for answer in runner(texts)]
    except SkimError:
        return None


@pytest.mark.usefixtures("exported_once")
@pytest.mark.parametrize("trials", Trials.of("edits of a manifest", 200, sample=3), indirect=True)
def test_an_edit_of_a_manifest_that_changes_an_answer_is_found(trials: Trials, built: Built, tmp_path: Path) -> None:
    """Its digests are renewed, so only parity can find it."""
    texts = [example.content for example in read_examples(str(built.data))]
    expected = answers(built.artifact, texts)
    for number in range(trials.count):
        artifact, said = built.copied(tmp_path / str(number)), list[str]()

        def edit(content: dict, said: list[str] = said) -> None:
            names = BETWEEN if trials.generator.random() < 0.7 else content.keys() - {"files", "seal", *BETWEEN}
            part = {name: content.pop(name) for name in sorted(names)}
            said.append(edit_leaf(part, trials.generator))
            content.update(part)

        edit_manifest(artifact, edit)
        trials.begin(said[0])
        found = outcome_of(
            parity, artifact, *("--samples", 4, "--threads", 1, "--max-drop", 100, "--provider", "onnxruntime")
        )
        trials.expect(f"parity: exit code {found.code}", found.problem)
        for verb, more in ((run, ("--text", "w5 w6", "--provider", "onnxruntime")), (inspect, ())):
            trials.expect(f"{verb.__name__}: no traceback", outcome_of(verb, artifact, *more).problem)
        now = answers(artifact, texts)
        if now not in (None, expected):
            trials.expect(
                "other answers: found by parity", None if found.code == 3 else f"parity exits with {found.code}"
            )
        shutil.rmtree(tmp_path / str(number))
    trials.end()


def test_the_edits_reach_answers(built: Built, tmp_path: Path) -> None:
    """Of an artifact whose edit changes answers, parity is what notices it: the trial above has something to find."""
    artifact = built.copied(tmp_path)
    edit_manifest(artifact, lambda m: m["head"]["labels"].reverse())
    texts = ["w5 w6 w7"]
    assert answers(artifact, texts) not in (None, answers(built.artifact, texts))
    assert Artifact.open(artifact).manifest.head.labels == ["yes", "maybe", "no"]
