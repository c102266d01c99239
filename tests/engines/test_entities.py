"""Entities and answers against transformers' own pipelines, and on paper."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from engines.answering import answers_of
from engines.entities import entities_of
from engines.errors import InputError
from engines.head import Head
from engines.origin import SPECIAL, Origin
from engines.prediction import SampleResult, predict, softmax
from engines.reading import Aggregation, Reading
from engines.tokenization import TextEncoder

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXTS = ["Anna Karenina lives in Rome, Italy.", "unbelievable", "Éva met Bob-Smith (again) in  Paris!", "xyzzy plugh ?"]
PIECES = "an ##na kar ##en ##ina lives in rome , italy . un ##bel ##ievable eva met bob - smith ( again ) paris !"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT's, with a few word pieces."""
    vocabulary = {piece: n for n, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PIECES.split()])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_entities_are_those_of_transformers(tokenizer: Path, aggregation: Aggregation) -> None:
    import transformers

    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer), unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(theirs),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=1.0,
        id2label=dict(enumerate(LABELS)),
        label2id={name: n for n, name in enumerate(LABELS)},
    )
    model = transformers.BertForTokenClassification(config).eval()
    pipe = transformers.pipeline(
        "token-classification", model=model, tokenizer=theirs, aggregation_strategy=aggregation
    )
    encode, total = TextEncoder(tokenizer, 32, origins=True), 0
    for text in TEXTS:
        (tokens,) = encode([text])
        assert tokens.origin is not None
        with torch.no_grad():
            logits = model(torch.tensor([tokens.input_ids])).logits[0].numpy()
        found = entities_of(softmax(logits, -1), LABELS, tokens.origin, aggregation)
        wanted = pipe(text)
        assert [(e.label, e.start, e.end) for e in found] == [
            (e["entity"] if aggregation == "none" else e["entity_group"], e["start"], e["end"]) for e in wanted
        ]
        assert [e.probability for e in found] == pytest.approx([float(e["score"]) for e in wanted], abs=1e-6)
        assert [e.text for e in found] == [text[e["start"] : e["end"]] for e in wanted]
        total += len(found)
    assert total > 4


def test_where_tokens_come_from(tokenizer: Path) -> None:
    (tokens,) = TextEncoder(tokenizer, 32, origins=True)([("Anna met Éva", "in  Rome!")])
    origin = tokens.origin
    assert origin is not None
    assert origin.parts == [SPECIAL, 0, 0, 0, 0, SPECIAL, 1, 1, 1, SPECIAL]
    pieces = [
        origin.texts[part][slice(*span)] for part, span in zip(origin.parts, origin.spans, strict=True) if part >= 0
    ]
    assert pieces == ["An", "na", "met", "Éva", "in", "Rome", "!"]
    assert origin.joined == [False, False, True, *[False] * 7]
    assert origin.word_span(2) == (0, 4)
    (cut,) = TextEncoder(tokenizer, 6, origins=True)([("Anna met Éva", "in  Rome!")])
    assert cut.origin is not None and len(cut.origin.parts) == len(cut) == 6
    assert TextEncoder(tokenizer, 32)(["Anna"])[0].origin is None


def context(words: int) -> Origin:
    """[CLS] q [SEP] a0 a1 ... [SEP], a word each."""
    text = " ".join(f"a{n}" for n in range(words))
    spans = [(0, 0), (0, 1), (0, 0), *((3 * n, 3 * n + 2) for n in range(words)), (0, 0)]
    parts = [SPECIAL, 0, SPECIAL, *[1] * words, SPECIAL]
    numbers: list[int | None] = [None, 0, None, *range(words), None]
    return Origin(("q", text), parts, spans, numbers, [False] * len(parts))


@given(
    st.integers(1, 7).flatmap(
        lambda n: st.lists(st.tuples(*[st.floats(-6, 6, width=32)] * 2), min_size=n + 4, max_size=n + 4)
    ),
    st.integers(1, 4),
    st.booleans(),
)
def test_answers_are_the_most_probable_spans_of_the_context(logits: list, longest: int, no_answer: bool) -> None:
    """By trying every span, as transformers' question answering defined it."""
    origin = context(len(logits) - 4)
    found = answers_of(np.array(logits, np.float32), origin, 3, longest, no_answer)
    places = [0, *origin.of_part(1)]
    start, end = (
        dict(zip(places, softmax(np.array([logits[n][side] for n in places]), -1), strict=True)) for side in (0, 1)
    )
    spans = {(i, j): start[i] * end[j] for i in origin.of_part(1) for j in origin.of_part(1) if i <= j < i + longest}
    wanted = sorted([*spans.values(), *([start[0] * end[0]] if no_answer else [])], reverse=True)[:3]
    assert [answer.probability for answer in found] == pytest.approx(wanted)
    for answer in found:
        if answer.tokens is None:
            assert (answer.text, answer.start, answer.end) == ("", 0, 0)
        else:
            first, last = (origin.spans[token] for token in answer.tokens)
            assert answer.text == origin.texts[1][first[0] : last[1]] == origin.texts[1][answer.start : answer.end]


def test_a_label_of_many_is_given_from_its_threshold_on() -> None:
    result = SampleResult(3, np.array([0.0, 1.0, -3.0], np.float32), [np.arange(3)], [])
    head = Head(kind="multi_label", labels=["a", "b", "c"], thresholds=[0.6, 0.5, 0.04])
    found = predict(result, head)
    assert found.label == ["b", "c"]
    assert found.probabilities == pytest.approx({"a": 0.5, "b": 0.731059, "c": 0.047426}, abs=1e-6)
    assert predict(result, head, Reading(threshold=0.5)).label == ["a", "b"]


def test_a_reading_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError) as error:
        Reading("middle", answers=0, max_answer=-1, threshold=2.0)  # type: ignore[arg-type]
    for name in ("aggregation", "answers", "max_answer", "threshold"):
        assert name in str(error.value)
