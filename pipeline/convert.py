"""python -m pipeline.convert: reads a checkpoint of LTP's or Transkimmer's own code, or of Hugging Face."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.importing import importing, program

with importing(__name__, "skimrt[cpu]"):
    from rich.console import Console

    from engines.errors import InputError
    from engines.writing import locked
    from pipeline.cli import main_of
    from pipeline.model import save_checkpoint
    from pipeline.model.checkpoint import CHECKPOINT_FILES, CONFIG_NAME, tokenizer_path
    from pipeline.model.huggingface.layout import is_model
    from pipeline.model.originals import ORIGINALS, Conversion, read_original


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
        "--padded-length",
        type=int,
        default=128,
        help="ltp: tokens that texts were padded to in training, by which its scores are divided (default 128, which "
        "is LTP's own)",
    )
    p.add_argument("--force", action="store_true", help="replace a checkpoint that is in DST already")
    return p


def run(args: argparse.Namespace) -> int:
    """Reads, checks and writes."""
    if args.padded_length < 1:
        raise InputError(f"--padded-length: expected tokens, at least 1, found {args.padded_length}")
    if not is_model(args.source):
        raise InputError(f"{args.source}: expected a directory with a config.json, found none")
    found = read_original(args.kind, args.source, args.padded_length)
    tokenizer = _tokenizer(args.tokenizer, args.source)
    with _claimed(args.out, args.force):
        save_checkpoint(found.config, found.weights, args.out, tokenizer)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in _told(found, args):
        console.print(line)
    return 0


def _told(found: Conversion, args: argparse.Namespace) -> Iterator[str]:
    """What was read and written, a line each."""
    config, pruner = found.config, found.config.pruner
    kind = config.head.kind
    labels = f"{kind} of {len(config.head.labels)} labels" if kind == "classification" else kind
    yield f"read    {args.source}: {pruner.method}, {config.encoder.family} of {config.encoder.layers} layers, {labels}"
    if pruner.reference_length is not None:
        yield f"assumed it was trained on texts padded to {pruner.reference_length} tokens (--padded-length)"
    for name in found.spare:
        yield f"unused  {name}"
    yield f"wrote   {args.out}"


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
