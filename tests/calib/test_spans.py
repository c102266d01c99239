"""CoNLL files, and SQuAD's JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calib.data import read_data
from calib.targets import Answers, Spans
from engines.errors import InputError

CONLL = """-DOCSTART- -X- O O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""


def test_sentences_of_a_conll_file_are_texts_with_spans(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    for content in (CONLL, CONLL.replace(" ", "\t").replace("\n", "\r\n"), "# id 1\n" + CONLL.split("\n\n", 1)[1]):
        path.write_text(content, "utf-8")
        examples = read_data(str(path)).examples
        assert [(e.text, e.target) for e in examples] == [
            ("EU rejects", Spans(((0, 2, "ORG"),))),
            ("Peter Blackburn", Spans(((0, 15, "PER"),))),
        ]


def test_a_word_without_a_tag_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("EU B-ORG\nrejects\n", "utf-8")
    with pytest.raises(InputError, match="line 2: expected a word and its tag, found 'rejects'"):
        read_data(str(tmp_path / "a.conll"))


def squad(path: Path, **question: object) -> Path:
    answers = [{"text": "Rome", "answer_start": 10}]
    asked = {"question": "Where?", "id": "1", "answers": answers, **question}
    value = {
        "version": "v2.0",
        "data": [{"title": "t", "paragraphs": [{"context": "He was in Rome.", "qas": [asked]}]}],
    }
    path.write_text(json.dumps(value), "utf-8")
    return path


def test_questions_of_squad_are_pairs_with_answers(tmp_path: Path) -> None:
    (example,) = read_data(str(squad(tmp_path / "a.json"))).examples
    assert example.content == ("Where?", "He was in Rome.") and example.target == Answers(((10, "Rome"),))
    (without,) = read_data(str(squad(tmp_path / "b.json", is_impossible=True))).examples
    assert without.target == Answers(())
    with pytest.raises(InputError, match="expected the answer 'Rome' at character 0"):
        read_data(str(squad(tmp_path / "c.json", answers=[{"text": "Rome", "answer_start": 0}])))


def test_a_json_file_may_be_a_list_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"label": "x", "text": "a"}, {"label": "y", "text": "b", "text_b": "c"}]', "utf-8")
    assert [e.content for e in read_data(str(path)).examples] == ["a", ("b", "c")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON, found"),
        ('"text"', "expected a list of objects"),
        ('{"data": [{"paragraphs": [{}]}]}', "expected SQuAD's articles"),
        ('["a"]', "row 1: expected an object"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content, "utf-8")
    with pytest.raises(InputError, match=message):
        read_data(str(tmp_path / "a.json"))
