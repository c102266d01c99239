"""python -m pipeline.run: answers texts with an artifact, one JSON line per text."""

from __future__ import annotations

import argparse
import codecs
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from pipeline.importing import importing

with importing(__name__, "skimrt"):
    from engines.errors import InputError
    from engines.runner import Runner
    from engines.tokenization import Text, text_of
    from engines.writing import output_file
    from pipeline.cli import main_of, standard_output


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.run",
        description="Answers texts with an artifact that pipeline.build wrote. Prints one JSON line per text, "
        "in the order of the texts: label, probability, logits, tokens (of the text) and "
        "retention (tokens still worked on at the end of every stage of the model). Files of any "
        "size are streamed.",
        epilog="""\
examples:
  python -m pipeline.run artifact --text "a film to remember"
  python -m pipeline.run artifact --text "a man eats" --text-b "somebody is eating"
  python -m pipeline.run artifact --input reviews.jsonl --output answers.jsonl --truncate
  cut -f 2 reviews.tsv | python -m pipeline.run artifact --input - --format text

input formats (by the file's ending, or --format):
  .jsonl  a line is {"text": "..."} or {"text": "...", "text_b": "..."}, other keys are ignored, or just "..."
  .tsv    label<TAB>text or label<TAB>text<TAB>second text, as a build's --data; the label is ignored
  .txt    a line is a text

exit codes: 0 all answered, 2 bad usage or input, 4 this machine cannot run it, 130 interrupted""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("artifact", type=Path, help="directory that pipeline.build wrote")
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="one text to answer")
    source.add_argument("--input", metavar="FILE", help="file of texts, a line each; - reads standard input")
    p.add_argument("--text-b", help="with --text: the second text of a pair")
    p.add_argument(
        "--format", choices=["jsonl", "tsv", "text"], help="of --input (default: by its ending; jsonl for -)"
    )
    p.add_argument("--output", type=Path, metavar="FILE", help="where the answers go (default: standard output)")
    p.add_argument(
        "--truncate",
        action="store_true",
        help="cut texts that are too long for the model; an error otherwise",
    )
    p.add_argument(
        "--target",
        default="auto",
        help="what runs the engines (default: the best that is built and runs here)",
    )
    p.add_argument("--provider", help="library that runs them: openvino or onnxruntime (default: the target's first)")
    p.add_argument("--threads", type=int, help="CPU threads (default: the library's choice)")
    p.add_argument("--batch", type=int, help="most texts per engine call; 1 answers each text at once (default: any)")
    p.add_argument("--window", type=int, default=256, help="texts read ahead at most (default 256)")
    return p


def run(args: argparse.Namespace) -> int:
    """Answers and returns 0."""
    if args.text_b is not None and args.text is None:
        raise InputError("--text-b: expected together with --text; in a file a pair has its own column or key")
    if args.output is not None and args.input not in (None, "-") and _same_file(args.input, args.output):
        raise InputError(f"--output {args.output}: it is the --input, whose texts are kept; name another file")
    runner = Runner(args.artifact, args.target, args.provider, args.threads, args.batch, args.window, args.truncate)
    with _texts(args) as texts, _sink(args.output) as sink:
        for prediction in runner.stream(texts):
            sink(json.dumps(asdict(prediction), ensure_ascii=False) + "\n")
    if runner.fused is not None and runner.fused.overflowed:
        print(
            f"{runner.fused.overflowed} of {runner.fused.samples} texts overflowed the fused engines and ran again "
            "through the stages; pipeline.inspect tells how many the build expected",
            file=sys.stderr,
        )
    return 0


def _same_file(one: str, other: Path) -> bool:
    """Whether two names are of one file with a content, which writing to it would replace."""
    return os.path.isfile(one) and os.path.isfile(other) and os.path.samefile(one, other)


@contextmanager
def _texts(args: argparse.Namespace) -> Iterator[Iterable[Text]]:
    if args.text is not None:
        yield [text_of(args.text, args.text_b)]
        return
    suffix = Path(args.input).suffix.lower()
    kind = args.format or ("jsonl" if args.input == "-" else _FORMATS.get(suffix))
    if kind is None:
        raise InputError(
            f"--input {args.input}: expected {', '.join(_FORMATS)} or --format, found {suffix or 'no ending'}"
        )
    name = "standard input" if args.input == "-" else args.input
    if args.input == "-" and sys.stdin is None:
        raise InputError("standard input: expected it to be open, found it closed; pipe texts into it or name a file")
    try:
        # Bytes, decoded line by line: an error can then name its line.
        file = sys.stdin.buffer if args.input == "-" else open(args.input, "rb")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"--input {args.input}: cannot be read: {error.strerror}") from None
    with file:
        first = next(file, None)
        if first is None:
            raise InputError(f"{name}: expected at least one line, found none")
        # Windows' programs put a byte order mark in front.
        yield _parsed(chain([first.removeprefix(codecs.BOM_UTF8)], file), _PARSERS[kind], name)


def _parsed(lines: Iterable[bytes], parse: Callable[[str], Text], name: str) -> Iterator[Text]:
    for number, line in enumerate(lines, 1):
        try:
            yield parse(line.decode("utf-8").rstrip("\r\n"))
        except ValueError as error:
            raise InputError(f"{name}, line {number}: {error}") from None


def _parse_jsonl(line: str) -> Text:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON, found {line[:60]!r} ({error})") from None
    first, second = (value.get("text"), value.get("text_b")) if isinstance(value, dict) else (value, None)
    if not isinstance(first, str) or not isinstance(second, str | None):
        raise ValueError(f'expected {{"text": "..."}} or "...", found {line[:60]!r}')
    return text_of(first, second)


def _parse_tsv(line: str) -> Text:
    columns = line.split("\t")
    if len(columns) not in (2, 3):
        raise ValueError(f"expected label<TAB>text or label<TAB>text<TAB>second text, found {len(columns)} column(s)")
    return text_of(columns[1], columns[2] if len(columns) > 2 else None)


_FORMATS = {".jsonl": "jsonl", ".tsv": "tsv", ".txt": "text"}
_PARSERS: dict[str, Callable[[str], Text]] = {"jsonl": _parse_jsonl, "tsv": _parse_tsv, "text": str}


@contextmanager
def _sink(path: Path | None) -> Iterator[Callable[[str], object]]:
    """Writes to standard output, or a file that appears under its name only when every answer is in it."""
    if path is None:
        yield _print
        return
    try:
        with output_file(path) as file:

            def write(line: str) -> None:
                file.write(line.encode())
                file.flush()  # whoever reads a pipe waits for every line

            yield write
    except OSError as error:
        raise InputError(f"--output {path}: cannot be written: {error.strerror or error}") from None


def _print(line: str) -> None:
    with standard_output() as output:
        output.write(line)


if __name__ == "__main__":
    main_of(parser, run)
