"""skimrt.pipeline: the fields of transformers' pipelines, arrays, streams, one bad text among many, others' folders."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import skimrt
from engines.errors import InputError, SkimError
from engines.head import Head
from engines.prediction import Prediction
from skimrt.face import Pipeline
from tests.engines.toy import Toy
from tests.test_architecture import imports_of

TEXTS = ["w7 w8", "w9 w10 w11", "w12"]
LONG = " ".join(["w7"] * 99)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("face")
    kinds = ("classification", "regression", "question_answering", "tagging")
    return {kind: Toy(head=kind).write(folder / kind, tiny_tokenizer) for kind in kinds}


def test_labels_have_the_fields_of_text_classification(artifacts: dict[str, Path]) -> None:
    pipe, runner = skimrt.pipeline(artifacts["classification"]), skimrt.Runner(artifacts["classification"])
    expected = [{"label": p.label, "score": p.probability} for p in runner(TEXTS)]
    assert pipe(TEXTS) == expected and pipe(TEXTS[0]) == expected[:1]
    assert pipe({"text": TEXTS[0]}) == expected[0]
    both = pipe(TEXTS, top_k=None)
    assert [one[:1] for one in both] == pipe(TEXTS, top_k=1) == [[one] for one in expected]
    assert {one["label"] for one in both[0]} == {"no", "yes"}
    assert sum(one["score"] for one in both[0]) == pytest.approx(1)
    assert skimrt.pipeline(artifacts["classification"], top_k=2)(TEXTS[0]) == both[0]
    pair = runner(("w7", "w8 w9"))
    for given in (("w7", "w8 w9"), {"text": "w7", "text_pair": "w8 w9"}):
        assert pipe([given]) == [{"label": pair.label, "score": pair.probability}]
    with pytest.raises(InputError, match="top_k: expected at least 1"):
        pipe(TEXTS, top_k=0)


def test_tags_and_answers_have_the_fields_of_their_pipelines(artifacts: dict[str, Path]) -> None:
    for strategy, name in (("none", "entity"), ("simple", "entity_group")):
        pipe = skimrt.pipeline(artifacts["tagging"], aggregation_strategy=strategy)
        found = [entity for entities in pipe(TEXTS) for entity in entities]
        assert found and all(set(entity) == {name, "score", "word", "start", "end"} for entity in found)
        assert pipe(TEXTS[1]) == pipe(TEXTS)[1]
    asking = skimrt.pipeline(artifacts["question_answering"])
    answer = asking(question="w7", context="w8 w9 w10")
    assert set(answer) == {"score", "start", "end", "answer"}
    assert answer["answer"] == "w8 w9 w10"[answer["start"] : answer["end"]]
    assert asking([{"question": "w7", "context": "w8 w9 w10"}]) == [answer]
    assert skimrt.pipeline(artifacts["question_answering"], top_k=3)(("w7", "w8 w9 w10"))[0] == answer
    with pytest.raises(InputError, match="aggregation: expected none"):
        skimrt.pipeline(artifacts["tagging"], aggregation_strategy="all")


def test_scores_are_arrays(artifacts: dict[str, Path]) -> None:
    amounts = skimrt.pipeline(artifacts["regression"])
    pairs = [["w7", "w8"], ["w7", "w9 w10"], ["w7", "w11"]]
    scores = amounts.predict(pairs)
    assert scores.shape == (3,) and scores.dtype == np.float32
    np.testing.assert_array_equal(amounts.predict(np.array(pairs)), scores)
    assert amounts.predict(("w7", "w8")) == scores[0] and amounts.predict([]).shape == (0,)
    ranked = amounts.rank("w7", ["w8", "w9 w10", "w11"], top_k=2)
    best = int(scores.argmax())
    assert ranked[0] == {"corpus_id": best, "score": float(scores[best]), "text": pairs[best][1]} and len(ranked) == 2
    classes = skimrt.pipeline(artifacts["classification"])
    assert classes.predict(np.array(TEXTS)).shape == (3, 2) and classes.predict(TEXTS[0]).shape == (2,)
    np.testing.assert_allclose(classes.predict(TEXTS, apply_softmax=True).sum(-1), 1, rtol=1e-6)
    with pytest.raises(InputError, match="encode: expected an embedder, found a classification model"):
        classes.encode(TEXTS)
    with pytest.raises(InputError, match="predict: expected scores of whole texts, found a tagging model"):
        skimrt.pipeline(artifacts["tagging"]).predict(TEXTS)


def test_embeddings_are_arrays() -> None:
    def stream(texts: Iterator[str]) -> Iterator[Prediction]:
        for vector in ([float(len(text)), 4.0] for text in texts):
            yield Prediction(None, None, vector, 3, [3], embedding=np.array(vector, np.float32))

    head = Head(kind="embedding", size=2)
    pipe = Pipeline(SimpleNamespace(stream=stream, manifest=SimpleNamespace(head=head)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(pipe.encode(["abc", "a"]), np.array([[3, 4], [1, 4]], np.float32))
    np.testing.assert_allclose(pipe.encode("abc", normalize_embeddings=True), [0.6, 0.8], rtol=1e-6)
    assert pipe.encode([]).shape == (0, 2)
    np.testing.assert_array_equal(pipe("abc"), [3, 4])


def test_streams_are_lazy_and_threads_agree(artifacts: dict[str, Path]) -> None:
    pipe = skimrt.pipeline(artifacts["classification"], window=2)
    read: list[str] = []

    def texts() -> Iterator[str]:
        for text in TEXTS * 4:
            read.append(text)
            yield text

    answers = pipe(texts())
    assert iter(answers) is answers and not read
    first = next(answers)
    assert first == pipe(TEXTS)[0] and len(read) < 12
    assert [first, *answers] == pipe(TEXTS * 4)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(pipe, [TEXTS] * 8)) == [pipe(TEXTS)] * 8
    with pytest.raises(InputError, match="inputs: expected texts, such as a list of them, found a int"):
        pipe(7)


@pytest.mark.parametrize("bad", [LONG, "", " ", 7, None])
def test_one_bad_text_among_many_is_one_error(artifacts: dict[str, Path], bad: object) -> None:
    mixed = [TEXTS[0], bad, TEXTS[1], TEXTS[2], bad]
    with pytest.raises(SkimError):
        skimrt.pipeline(artifacts["classification"])(mixed)
    pipe = skimrt.pipeline(artifacts["classification"], on_error="return")
    for found in (pipe(mixed), list(pipe(iter(mixed)))):
        assert [isinstance(answer, SkimError) for answer in found] == [False, True, False, False, True]
        assert [found[n] for n in (0, 2, 3)] == pipe(TEXTS)
    with pytest.raises(InputError, match="on_error: expected raise or return"):
        skimrt.pipeline(artifacts["classification"], on_error="ignore")  # type: ignore[arg-type]


def run_beside(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a folder with packages of the user's own, named as SkimRT's are."""
    for name in ("pipeline", "engines", "calib", "plugins"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "__init__.py").write_text(f"MINE = {name!r}\n")
    root = Path(skimrt.__file__).parents[1]
    path = {"PYTHONPATH": str(root), "PATH": ""}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=path, capture_output=True, text=True, check=False
    )


def test_folders_of_the_users_own_change_nothing(artifacts: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import skimrt, sys; found = skimrt.pipeline(sys.argv[1])('w7 w8');"
        "import pipeline; assert pipeline.MINE == 'pipeline'; print(found[0]['label'])"
    )
    done = run_beside(tmp_path, "-c", code, str(artifacts["classification"]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == skimrt.pipeline(artifacts["classification"])("w7 w8")[0]["label"]
    done = run_beside(tmp_path, "-m", "skimrt", "inspect", str(artifacts["classification"]), "--json")
    # Python finds `skimrt` by its path, and `skimrt` finds its own packages in front of the folder's.
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", skimrt.__all__)
def test_a_name_brings_the_packages_that_it_imports(name: str) -> None:
    """What is not named would be taken from the folder, if that has a package so called."""
    seen, left = set[str](), [skimrt._HOMES.get(name, "skimrt")]
    while left:
        seen.add(module := left.pop())
        left += imports_of(module, at_runtime=True) - seen
    assert {module.partition(".")[0] for module in seen} <= {"skimrt", "engines", *skimrt._NEED.get(name, ())}


def test_a_name_that_is_taken_already_is_told(tmp_path: Path) -> None:
    done = run_beside(tmp_path, "-c", "import engines; import skimrt")
    assert done.returncode == 1
    assert (
        f"its own package 'engines' is needed, but another one of that name is imported already, from {tmp_path}"
        in (done.stderr)
    )
    done = run_beside(tmp_path, "-c", "import skimrt, pipeline; skimrt.build")
    assert "its own package 'pipeline' is needed" in done.stderr
