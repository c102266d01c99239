"""python -m pipeline.convert: reads a checkpoint of LTP's or Transkimmer's own code, or of Hugging Face."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pipeline.importing import importing, program

with importing(__name__, "skimrt[cpu]"):
    from rich.console import Console

    from calib.data import NAMED_SETS, Example, read_examples
    from engines.errors import InputError
    from engines.tokenization import TextEncoder
    from engines.writing import locked
    from pipeline.cli import main_of
    from pipeline.model import save_checkpoint
    from pipeline.model.checkpoint import CHECKPOINT_FILES, CONFIG_NAME, tokenizer_path
    from pipeline.model.huggingface.layout import is_model
    from pipeline.model.originals import ORIGINALS, Conversion, read_original
    from pipeline.model.originals.differences import differences, first_dies

_ATTENTION = (
    "the first token may die, as in the original: nothing protects it",
    "a batch of exactly two texts stops the original's code; here it is like any other",
)
_OTHERWISE = {
    "ltp": (
        "scores are divided by one length; the original divides by what a batch is padded to, so that other padding "
        "keeps other tokens",
        "tokens that are dropped are gone; the original carries them on without a context",
        *_ATTENTION,
    ),
    "threshold": _ATTENTION,
    "topk": (
        "a share of the living tokens is kept, rounded up; the original rounds a share of all tokens",
        *_ATTENTION,
    ),
    "transkimmer": (
        "the likelier of keep and skim is taken; the original draws Gumbel noise at inference too",
        "dropped tokens leave the softmax; the original's master takes them out behind it and does not normalise anew",
        "padding is never alive; the original lets it live",
    ),
}
"""What SkimRT does otherwise than the code that a model of each method comes from."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog=program("convert"),
        description="Writes a checkpoint that train, build and parity read, from one of kssteven418/LTP, of "
        "ChandlerGuan/Transkimmer, or of a fine-tuned Hugging Face model. Nothing is run that comes with it: weights "
        "are safetensors, or a PyTorch file of nothing but tensors.",
        epilog="exit codes: 0 written, 2 it cannot be read whole (every problem is listed) or DST is taken",
    )
    p.add_argument("--from", dest="kind", required=True, choices=ORIGINALS, help="the code that saved SRC")
    p.add_argument("source", metavar="SRC", type=Path, help="directory with config.json and weights")
    p.add_argument("out", metavar="DST", type=Path, help="directory of the checkpoint to write")
    p.add_argument(
        "--tokenizer", type=Path, help="tokenizer.json, or a directory with one, where SRC has none of its own"
    )
    p.add_argument(
        "--task",
        choices=["ranking"],
        help="huggingface: what a model with one output is, if it is no regression: a reranker of (query, passage)",
    )
    p.add_argument(
        "--padded-length",
        type=int,
        default=128,
        help="ltp: tokens that texts were padded to in training, by which its scores are divided (default 128, which "
        "is LTP's own)",
    )
    p.add_argument(
        "--data",
        help=f"measure on these texts how often SkimRT answers otherwise than the original's code: "
        f"{', '.join(NAMED_SETS)}, or a file",
    )
    p.add_argument("--samples", type=int, default=256, help="how many texts (default 256)")
    p.add_argument("--force", action="store_true", help="replace a checkpoint that is in DST already")
    return p


def run(args: argparse.Namespace) -> int:
    """Reads, checks and writes."""
    for flag, value in (("--padded-length", args.padded_length), ("--samples", args.samples)):
        if value < 1:
            raise InputError(f"{flag}: expected a number of at least 1, found {value}")
    if not is_model(args.source):
        raise InputError(f"{args.source}: expected a directory with a config.json, found none")
    found = read_original(args.kind, args.source, args.padded_length)
    if args.task is not None:
        found = _as_ranking(found, args.source)
    tokenizer = _tokenizer(args.tokenizer, args.source)
    encoder = TextEncoder(tokenizer, found.config.max_length, found.config.encoder.type_vocab_size)
    examples = read_examples(args.data, "test")[: args.samples] if args.data else []
    measured = list(_measured(found, encoder, examples))
    with _claimed(args.out, args.force):
        save_checkpoint(found.config, found.weights, args.out, tokenizer)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in [*_told(found, args), *measured, f"wrote    {args.out}"]:
        console.print(line)
    return 0


def _told(found: Conversion, args: argparse.Namespace) -> Iterator[str]:
    """What was read and written, a line each."""
    config, pruner = found.config, found.config.pruner
    kind = config.head.kind
    labels = f"{kind} of {len(config.head.labels)} labels" if kind == "classification" else kind
    encoder = f"{config.encoder.family} of {config.encoder.layers} layers"
    yield f"read     {args.source}: {pruner.method}, {encoder}, {labels}"
    if pruner.reference_length is not None:
        yield f"assumed  it was trained on texts padded to {pruner.reference_length} tokens (--padded-length)"
    for name in found.spare:
        yield f"unused   {name}"
    for line in _OTHERWISE.get(pruner.method, ()):
        yield f"differs  {line}"


def _as_ranking(found: Conversion, source: Path) -> Conversion:
    """The model with its only output as the relevance of a passage for a query. Raises InputError for another."""
    head = found.config.head
    if not head.one_value:
        raise InputError(
            f"--task ranking: expected a model with one output (num_labels 1), found {source}, "
            f"a {head.kind} of {len(head.labels)} labels"
        )
    return replace(found, config=found.config.model_copy(update={"head": head.model_copy(update={"kind": "ranking"})}))


def _measured(found: Conversion, encoder: TextEncoder, examples: Sequence[Example]) -> Iterator[str]:
    """How often SkimRT and the original's code differ on the texts, a line each; none without texts."""
    if not examples:
        return
    model, samples = found.model(), encoder([example.content for example in examples])
    compared = differences(model, samples)
    if not compared:
        yield f"SKIPPED  the original's execution of {found.config.encoder.family} is not known here: nothing measured"
    for difference in compared:
        yield f"measured {difference} (of {len(samples)})"
    if not found.config.pruner.protect_first:
        yield f"measured the first token, which the head reads, dies in {first_dies(model, samples):.1%} of the texts"


def _tokenizer(given: Path | None, source: Path) -> Path:
    """The tokenizer.json to copy. Raises InputError."""
    if given is not None and given.is_file():
        return given
    try:
        return tokenizer_path(given or source)
    except InputError as error:
        if given is not None:
            raise
        raise InputError(f"{error}; or name one with --tokenizer") from None


@contextmanager
def _claimed(out: Path, force: bool) -> Iterator[None]:
    """DST while it is written: absent, empty, or with `force` a checkpoint and nothing else. Raises InputError."""
    if not out.name or out.name == "..":
        raise InputError(f"DST {out}: expected the name of a directory to write, such as checkpoint")
    out = out.parent.resolve() / out.name
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out, f"DST {out}"):
            fresh = not out.exists()
            _refuse_taken(out, force)
            try:
                yield
            except BaseException:
                if fresh:
                    with suppress(OSError):
                        out.rmdir()
                raise
    except OSError as error:
        raise InputError(
            f"DST {out}: cannot be written: {error.strerror or error}; free space, get permission or choose another "
            "directory"
        ) from None


def _refuse_taken(out: Path, force: bool) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"DST {out}: expected a directory or none, found something else; choose another name")
    there = sorted(path.name for path in out.iterdir()) if out.exists() else []
    foreign = [name for name in there if name not in CHECKPOINT_FILES]
    if foreign or (there and CONFIG_NAME not in there):
        raise InputError(
            f"DST {out}: it holds {', '.join((foreign or there)[:5])}, which is no checkpoint of ours; choose another "
            "directory"
        )
    if there and not force:
        raise InputError(f"DST {out}: it holds a checkpoint; --force replaces it, or choose another directory")


if __name__ == "__main__":
    main_of(parser, run)
