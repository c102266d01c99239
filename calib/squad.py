"""Rows of a .json file: SQuAD's articles with questions, or a plain list of rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from calib.row import Columns, Row, named, shortened
from engines.errors import InputError


def json_rows(file: BinaryIO, name: str, columns: Columns | None) -> Iterator[Row]:
    """The rows of the file, which is read whole. A question is the first text and its context the second.

    Of an unanswerable question (SQuAD 2) the answers are none. Raises InputError for any other JSON.
    """
    try:
        value = json.load(file)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: expected JSON, found {error}; JSON lines end in .jsonl") from None
    if isinstance(value, list):
        for number, fields in enumerate(value, 1):
            if isinstance(fields, dict):
                yield named(f"row {number}", fields, columns or Columns())
            else:
                yield Row(f"row {number}", problem=f"expected an object, found {shortened(fields)}")
        return
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise InputError(f'{name}: expected a list of objects, or {{"data": [...]}} as SQuAD has it, found neither')
    try:
        yield from _questions(value["data"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: expected SQuAD's articles, paragraphs and questions, found {error!r}") from None


def _questions(articles: list[Any]) -> Iterator[Row]:
    number = 0
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                number += 1
                answers = [] if question.get("is_impossible") else question["answers"]
                label = {key: [answer[key] for answer in answers] for key in ("text", "answer_start")}
                yield Row(f"question {number}", label, question["question"], paragraph["context"])
