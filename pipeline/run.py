"""python -m pipeline.run: answers texts with an artifact, one JSON line per text."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.importing import importing, program

with importing(__name__, "skimrt"):
    from calib.row import Columns, Row, text_of_row
    from calib.rows import FORMATS, parse_rows, read_rows
    from calib.tables import is_dataset, split_folder
    from engines.artifact import Artifact
    from engines.errors import InputError, SkimError
    from engines.runner import Runner
    from engines.tokenization import Text, text_of
    from engines.writing import output_file
    from pipeline.cli import add_reading_flags, main_of, reading_of, standard_output, takes_unicode

_REPORTED = 20
"""Texts without an answer that are named one by one."""

_EPILOG = """\
examples:
  python -m pipeline.run artifact --text "a film to remember"
  python -m pipeline.run artifact --text "a man eats" --text-b "somebody is eating"
  python -m pipeline.run artifact --input reviews.jsonl --output answers.jsonl --truncate
  cut -f 2 reviews.tsv | python -m pipeline.run artifact --input - --format text

input formats (by the file's ending, or --format):
  .jsonl    a line is {"text": "..."} or {"text": "...", "text_b": "..."}, other keys are ignored, or just "..."
            (with --input, --text and --text-b give the keys or columns other names)
  .tsv      label<TAB>text or label<TAB>text<TAB>second text, as a build's --data, or columns named in a first line
  .csv      columns named text and perhaps text_b in a first line, other columns are ignored
  .parquet  the same columns; so has a directory that Hugging Face's datasets has saved
  .json     a list of such objects, or SQuAD's articles: a question and its context are a pair
  .txt      a line is a text
Empty lines at the end of a file are no texts, nor are those between lines of .jsonl and .csv. A line may have 16 MiB,
a text 1 MiB; --truncate cuts longer texts.

exit codes: 0 all answered, 1 but for texts that came to no finite numbers, which standard error names and which have
no line, 2 bad usage or input, 4 this machine cannot run it"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog=program("run"),
        description="Answers texts with an artifact that pipeline.build wrote. Prints one JSON line per text, "
        "in the order of the texts: what the model's head gives (label, probability and logits; "
        "of several labels those that are given and every probability; embedding; entities or answer with their "
        "places in characters), tokens (of the text) and retention (tokens still worked on at the end of every stage "
        "of the model). Files of any size are streamed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("artifact", type=Path, help="directory that pipeline.build wrote")
    p.add_argument("--text", help="one text to answer; with --input, the column or key of the texts (default text)")
    p.add_argument("--input", metavar="FILE", help="file of texts, a line each; - reads standard input")
    p.add_argument(
        "--text-b", help="the second text of a pair; with --input, the column or key of them (default text_b)"
    )
    p.add_argument(
        "--format", choices=["jsonl", "tsv", "csv", "text"], help="of --input (default: by its ending; jsonl for -)"
    )
    p.add_argument("--output", type=Path, metavar="FILE", help="where the answers go (default: standard output)")
    p.add_argument(
        "--truncate",
        action="store_true",
        help="cut texts that are too long for the model; an error otherwise, but for what a question is asked about: "
        "that is read in windows",
    )
    p.add_argument(
        "--target",
        default="auto",
        help="what runs the engines (default: the best that is built and runs here)",
    )
    p.add_argument("--provider", help="library that runs them: openvino or onnxruntime (default: the target's first)")
    p.add_argument("--threads", type=int, help="CPU threads (default: the library's choice)")
    p.add_argument("--batch", type=int, help="most texts per engine call; 1 answers each text at once (default: any)")
    add_reading_flags(p)
    p.add_argument("--window", type=int, default=256, help="texts read ahead at most (default 256)")
    return p


def run(args: argparse.Namespace) -> int:
    """Answers; returns 1 where some text came to no finite numbers, else 0."""
    if args.input is None and args.text is None:
        raise InputError("one of the arguments --text --input is required")
    if args.output is not None and args.input not in (None, "-") and _same_file(args.input, args.output):
        raise InputError(f"--output {args.output}: it is the --input, whose texts are kept; name another file")
    Artifact.open(args.artifact)  # also what this target does not read: damage is never only in one file
    runner = Runner(
        args.artifact,
        args.target,
        verify=False,  # of what it reads, it compares the digests again
        provider=args.provider,
        threads=args.threads,
        max_batch=args.batch,
        window=args.window,
        truncate=args.truncate,
        reading=reading_of(args),
    )
    failed: list[SkimError] = []

    def report(error: SkimError) -> None:
        failed.append(error)
        if len(failed) <= _REPORTED:
            print(f"error: {error}", file=sys.stderr)

    escaped = args.output is None and not takes_unicode(sys.stdout)
    with _texts(args) as texts, _sink(args.output) as sink:
        for prediction in runner.stream(texts, report):
            sink(json.dumps(prediction.record(), ensure_ascii=escaped) + "\n")
    if len(failed) > _REPORTED:
        print(f"error: {len(failed)} texts have no answer", file=sys.stderr)
    return 1 if failed else 0


def _same_file(one: str, other: Path) -> bool:
    """Whether two names are of one file with a content, which writing to it would replace."""
    return os.path.isfile(one) and os.path.isfile(other) and os.path.samefile(one, other)


@contextmanager
def _texts(args: argparse.Namespace) -> Iterator[Iterable[Text]]:
    if args.input is None:
        yield [text_of(args.text, args.text_b)]
        return
    columns = Columns.given(None, args.text, args.text_b)
    if columns is not None and args.input.lower().endswith(".txt"):
        raise InputError("--text and --text-b name columns, of which a file of plain lines has none")
    suffix = Path(args.input).suffix.lower()
    kind = args.format or ("jsonl" if args.input == "-" else FORMATS.get(suffix))
    if kind is None and not is_dataset(Path(args.input)):
        raise InputError(
            f"--input {args.input}: expected {', '.join(FORMATS)} or --format, found {suffix or 'no ending'}"
        )
    name = "standard input" if args.input == "-" else args.input
    if kind == "parquet" or kind is None:
        yield _texts_of(read_rows(split_folder(Path(args.input), None), columns, labelled=False), name)
        return
    if args.input == "-" and sys.stdin is None:
        raise InputError("standard input: expected it to be open, found it closed; pipe texts into it or name a file")
    try:
        file = sys.stdin.buffer if args.input == "-" else open(args.input, "rb")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"--input {args.input}: cannot be read: {error.strerror}") from None
    with file:
        yield _texts_of(parse_rows(file, name, kind, columns, labelled=False), name)


def _texts_of(rows: Iterator[Row], name: str) -> Iterator[Text]:
    row = None
    for row in rows:
        try:
            yield text_of_row(row)
        except ValueError as error:
            raise InputError(f"{name}, {row.location}: {error}") from None
    if row is None:
        raise InputError(f"{name}: expected at least one line, found none")


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
