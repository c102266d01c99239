"""Writes a small set for every kind of head, a file to train on and one to test on: news and made-up reports.

python -m benchmarks.small_sets FOLDER
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from calib.data import Example, read_examples
from engines.writing import write_whole
from pipeline.cli import main_of

Row = dict[str, Any]
_SIZES = {"": 600, "-test": 200}
"""Rows of the file to train on, and of the one to test on."""
_QUERIES = {"": (200, 3), "-test": (85, 5)}
"""Queries of a ranking, and the wrong passages of each. A test query in which another passage comes first costs a
ranking 0.4 points of nDCG@10, so that a budget of one point can be told from chance."""
_EXCERPT, _SENTENCE = (28, 50), (6, 14)
"""Fewest and most words of an excerpt, and of a sentence."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.small_sets", description=(__doc__ or "").splitlines()[0])
    p.add_argument("folder", type=Path, help="where the .jsonl files are written")
    return p


def run(args: argparse.Namespace) -> int:
    """Writes all sets; the same ones at every run."""
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        write_set(args.folder, name)
    return 0


def write_set(folder: Path, name: str) -> None:
    """Writes NAME.jsonl, to train on, and NAME-test.jsonl, of other articles or other names."""
    for part in _SIZES:
        rows = SETS[name](random.Random(f"{name}{part}"), part)
        write_whole(folder / f"{name}{part}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def _articles(part: str) -> list[Example]:
    """BBC's articles to train on, or the others."""
    splits: tuple[Any, ...] = ("dev", "test") if part else ("train",)
    return [example for split in splits for example in read_examples("bbc-news", split)]


def _sentences(article: Example) -> list[str]:
    """The article's sentences, without the headline."""
    return [s for line in article.text.split("\n")[1:] for s in re.split(r"(?<=[.?!]) (?=[A-Z])", line) if s]


def _excerpts(article: Example) -> list[str]:
    """Runs of sentences."""
    found, words = [], list[str]()
    for sentence in _sentences(article):
        words += sentence.split()
        if len(words) >= _EXCERPT[0]:
            found.append(" ".join(words[: _EXCERPT[1]]))
            words = []
    return found


def _by_topic(part: str) -> dict[str, list[str]]:
    """Short sentences of the articles of every topic."""
    found: dict[str, list[str]] = {}
    for article in _articles(part):
        short = [s for s in _sentences(article) if _SENTENCE[0] <= len(s.split()) <= _SENTENCE[1]]
        found.setdefault(article.label, []).extend(short)
    return found


def topics(chance: random.Random, part: str) -> list[Row]:
    """Excerpts of articles, and their topic."""
    rows = [{"text": text, "label": article.label} for article in _articles(part) for text in _excerpts(article)[:3]]
    return chance.sample(rows, _SIZES[part])


def labels(chance: random.Random, part: str) -> list[Row]:
    """Two sentences of each of one or two topics, and those topics."""
    sentences, rows = _by_topic(part), []
    for _ in range(_SIZES[part]):
        chosen = sorted(chance.sample(sorted(sentences), chance.choice([1, 2])))
        text = [sentence for topic in chosen for sentence in chance.sample(sentences[topic], 2)]
        rows.append({"text": " ".join(chance.sample(text, len(text))), "label": chosen})
    return rows


def values(chance: random.Random, part: str) -> list[Row]:
    """Four sentences, and the share of them that are about sports."""
    sentences, rows = _by_topic(part), []
    others = [sentence for topic in sorted(sentences) if topic != "sports" for sentence in sentences[topic]]
    for _ in range(_SIZES[part]):
        count = chance.randint(0, 4)
        text = chance.sample(sentences["sports"], count) + chance.sample(others, 4 - count)
        rows.append({"text": " ".join(chance.sample(text, 4)), "label": count / 4})
    return rows


def queries(chance: random.Random, part: str) -> list[Row]:
    """Headlines with an excerpt of their own article (1), and with those of other articles of the topic (0)."""
    excerpts = {article.text: _excerpts(article) for article in _articles(part)}
    articles = [article for article in _articles(part) if excerpts[article.text]]
    count, wrong = _QUERIES[part]
    rows = []
    for own in chance.sample(articles, count):
        others = [a for a in articles if a.label == own.label and a.text != own.text]
        chosen = [own, *chance.sample(others, wrong)]
        for article in chance.sample(chosen, len(chosen)):
            headline, passage = own.text.split("\n")[0].strip(), excerpts[article.text][0]
            rows.append({"text": headline, "text_b": passage, "label": int(article is own)})
    return rows


def texts(chance: random.Random, part: str) -> list[Row]:
    """Excerpts of articles, without labels."""
    return [{"text": row["text"]} for row in topics(chance, part)]


def entities(chance: random.Random, part: str) -> list[Row]:
    """Made-up reports, and the people, organisations and places in them."""
    rows = []
    for _ in range(_SIZES[part]):
        text, spans, _ = _report(chance, part)
        named = [(start, end, _ENTITIES[slot]) for start, end, slot in spans if slot in _ENTITIES]
        rows.append({"text": text, "label": [dict(zip(("start", "end", "label"), s, strict=True)) for s in named]})
    return rows


def answers(chance: random.Random, part: str) -> list[Row]:
    """Questions about made-up reports."""
    rows = []
    for _ in range(_SIZES[part]):
        text, spans, asked = _report(chance, part)
        question, (start, end) = chance.choice(asked)
        assert any(span[:2] == (start, end) for span in spans)
        rows.append({"text": question, "text_b": text, "label": {"text": [text[start:end]], "answer_start": [start]}})
    return rows


SETS: dict[str, Callable[[random.Random, str], list[Row]]] = {
    "topics": topics,
    "labels": labels,
    "values": values,
    "queries": queries,
    "texts": texts,
    "entities": entities,
    "answers": answers,
}


def _words(text: str) -> list[str]:
    return text.split()


_ENTITIES = {"person": "PER", "company": "ORG", "place": "LOC"}
_FIRST = _words("Anna Omar Li Maria John Priya Karl Ruth Diego Emma Yusuf Nina Peter Aisha Hugo Clara")
_LAST = {
    "": _words(
        "Berg Khan Rossi Novak Silva Meyer Okafor Tanaka Dubois Walsh Costa Lind Haas Moreno Petrov Byrne Adeyemi "
        "Bauer Castro Dahl Ekman Fischer Garcia Hansen Ito Jansen Kaya Larsen Mbeki Nowak Olsen Park Quist Ramos Sato "
        "Torres Ueda Vargas Wong Xu Yilmaz Zeman"
    ),
    "-test": _words("Falk Osei Weber Duarte Kovac Imai Lopez Quinn"),
}
_PLACES = {
    "": _words(
        "Rome Oslo Lagos Lima Perth Kyoto Leeds Porto Vienna Dublin Cairo Boston Geneva Mumbai Prague Quito Athens "
        "Bergen Calgary Dallas Essen Florence Glasgow Havana Izmir Jakarta Kabul Lyon Milan Nairobi Osaka Paris Riga "
        "Seville"
    ),
    "-test": _words("Madrid Turin Accra Seoul Bristol Denver Hanoi Basel"),
}
_KINDS = _words("Motors Bank Airways Foods Energy Media")
_OWN = {
    "month": _words("January March April June July October November"),
    "number": _words("three four five seven nine eleven twenty thirty"),
    "race": ["the marathon", "the regatta", "the rally", "the chess final"],
    "building": ["a factory", "an office", "a museum", "a hotel"],
}
_FACTS = [
    ("{person} won {race} in {place}.", {"Who won {race}?": "person", "Where did {person} win?": "place"}),
    (
        "{company} will open {building} in {place} in {month}.",
        {"Who will open {building}?": "company", "When will {company} open {building}?": "month"},
    ),
    (
        "{person} left {company} after {number} years.",
        {"Who left {company}?": "person", "Which company did {person} leave?": "company"},
    ),
    ("A storm hit {place} in {month}.", {"What place was hit by a storm?": "place", "When was the storm?": "month"}),
    (
        "{company} sold {number} ships to {person}.",
        {"Who sold ships to {person}?": "company", "How many ships did {company} sell?": "number"},
    ),
]
"""Sentences, and what may be asked of each with the slot of the answer."""
_REST = [
    "Nobody had expected that a year ago.",
    "Officials declined to say more about it.",
    "It was the first time in a long while.",
    "Critics said that the plans had come too late.",
    "The news was met with surprise by those who know the matter well.",
    "More details are expected at the end of the week.",
    "As far as is known, there were no other offers.",
]


def _report(chance: random.Random, part: str) -> tuple[str, list[tuple[int, int, str]], list[tuple[str, tuple]]]:
    """A text of two facts among other sentences, its slots (start, end, name), and questions with their answers."""
    filled: list[tuple[str, list[tuple[int, int, str]], list[tuple[str, int]]]] = []
    pools = _pools(chance, part)
    for template, asked in chance.sample(_FACTS, 2):
        values = {name: next(pools[name]) for name in re.findall(r"{(\w+)}", template)}
        sentence, spans = "", []
        for piece in re.split(r"({\w+})", template):
            name = piece.strip("{}")
            word = values[name] if piece.startswith("{") else piece
            if piece.startswith("{"):
                spans.append((len(sentence), len(sentence) + len(word), name))
            sentence += word
        names = [name for _, _, name in spans]
        filled.append((sentence, spans, [(q.format(**values), names.index(a)) for q, a in asked.items()]))
    filled += [(sentence, [], []) for sentence in chance.sample(_REST, 3)]
    text, places, questions = "", list[tuple[int, int, str]](), list[tuple[str, tuple]]()
    for sentence, spans, asked_here in chance.sample(filled, len(filled)):
        at = len(text) + bool(text)
        text = f"{text} {sentence}".strip()
        moved = [(at + start, at + end, name) for start, end, name in spans]
        places += moved
        questions += [(question, moved[number][:2]) for question, number in asked_here]
    return text, places, questions


def _pools(chance: random.Random, part: str) -> dict[str, Iterator[str]]:
    """What fills each slot, no name twice in a text."""
    names = chance.sample(_LAST[part], 6)
    people = [f"{first} {last}" for first, last in zip(chance.sample(_FIRST, 3), names[:3], strict=True)]
    companies = [f"{name} {kind}" for name, kind in zip(names[3:], chance.sample(_KINDS, 3), strict=True)]
    pools = {"person": people, "company": companies, "place": chance.sample(_PLACES[part], 3)}
    return {name: iter(chance.sample(pool, len(pool))) for name, pool in (pools | _OWN).items()}


if __name__ == "__main__":
    main_of(parser, run)
