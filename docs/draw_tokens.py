"""python -m docs.draw_tokens: draws docs/tokens.svg, what the shipped LTP model keeps of three short reviews.

tests/demo/test_drawing.py draws it again and compares.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from tokenizers import Tokenizer

from engines.tokenization import TextEncoder
from pipeline.builder.config import DEMO
from pipeline.model import load_checkpoint
from pipeline.model.reference import Reference

PICTURE = Path(__file__).with_name("tokens.svg")
TEXTS = (
    "The acting is superb, and so is the music of the film.",
    "This is a boring film and I want my two hours back.",
    "It was late, and it turned out to be a wonderful surprise.",
)
LENGTHS = (16, 8)
"""The bucket of each stage: the number of columns in the drawing."""
CELL, ROW, LEFT = 60, 30, 20
"""Width and height of a token's cell and the left margin, in pixels."""
WIDTH = 2 * LEFT + LENGTHS[0] * CELL
STYLE = """
text { font-family: "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif; font-size: 11px; text-anchor: middle }
text { fill: #1f2328 }
.head { font-size: 14px; font-weight: 600; text-anchor: start }
.note { font-size: 12px; fill: #59636e; text-anchor: start }
.answer { font-size: 13px; font-weight: 600; text-anchor: start }
.alive { fill: #d5f0df; stroke: #2da44e }
.dead { fill: #f3f4f6; stroke: #d8dee4 }
.empty { fill: none; stroke: #d8dee4; stroke-dasharray: 3 3 }
.gone { fill: #afb8c1; text-decoration: line-through }
"""


def drawing() -> str:
    """The picture as SVG text."""
    directory = DEMO / "ltp"
    samples = TextEncoder(directory / "tokenizer.json", 256)(TEXTS)
    result = Reference.of(load_checkpoint(directory), samples)
    word_of = Tokenizer.from_file(str(directory / "tokenizer.json")).id_to_token
    words = [[word_of(token) or "" for token in sample.input_ids] for sample in samples]
    alive = [layers[-1].tolist() for layers in result.alive]
    kept = [[word for word, keep in zip(*row, strict=True) if keep] for row in zip(words, alive, strict=True)]
    answers = [logits.softmax(-1)[1].item() for logits in result.logits]
    total, left = sum(map(len, words)), sum(map(len, kept))
    height = 2 * len(TEXTS) * ROW + 160
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            f'aria-label="{total} tokens enter the first stage; {left} survive and are packed to the front">',
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
            _text("head", 30, f"Stage 0: the first attention, in a bucket of {LENGTHS[0]} tokens"),
            *_grid(48, words, alive, LENGTHS[0]),
            _text("note", 164, f"LTP decides: {total - left} of {total} tokens have received too little attention."),
            _text("note", 182, "skimrt::TokenCompact packs the survivors of each text to the front, in order."),
            _text("head", 216, f"Stage 1: the rest of the model, in a bucket of {LENGTHS[1]} tokens"),
            *_grid(234, kept, [[True] * len(row) for row in kept], LENGTHS[1]),
            *(_answer(234 + row * ROW, positive) for row, positive in enumerate(answers)),
            "</svg>",
            "",
        ]
    )


def _grid(top: int, words: list[list[str]], alive: list[list[bool]], length: int) -> list[str]:
    """One row of cells a text: alive, dead, or padding."""
    cells = []
    for row, (tokens, keeps) in enumerate(zip(words, alive, strict=True)):
        for column in range(length):
            state = "empty" if column >= len(tokens) else "alive" if keeps[column] else "dead"
            x, y = LEFT + column * CELL, top + row * ROW
            cells.append(f'<rect class="{state}" x="{x}" y="{y}" width="{CELL - 4}" height="{ROW - 6}" rx="4"/>')
            if column < len(tokens):
                gone = "" if keeps[column] else ' class="gone"'
                cells.append(f'<text{gone} x="{x + CELL // 2 - 2}" y="{y + 16}">{escape(tokens[column])}</text>')
    return cells


def _text(kind: str, y: int, words: str, x: int = LEFT) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>'


def _answer(top: int, positive: float) -> str:
    label, probability = ("positive", positive) if positive > 0.5 else ("negative", 1 - positive)
    return _text("answer", top + 17, f"{label}, {100 * probability:.0f} %", LEFT + LENGTHS[1] * CELL + 16)


if __name__ == "__main__":
    PICTURE.write_text(drawing(), "utf-8")
