"""python -m pipeline.train: fine-tunes a model densely or teaches it to skip tokens."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pipeline.importing import importing, program

with importing(__name__, "skimrt[train]"):
    import torch
    from pydantic import ValidationError

    from calib.data import NAMED_SETS, Example, examples_digest, has_labels
    from engines.errors import InputError, validation_problems
    from engines.files import sha256
    from engines.head import HeadKind
    from engines.tokenization import TextEncoder
    from engines.writing import write_whole
    from pipeline.cli import add_column_flags, main_of
    from pipeline.model import load_checkpoint
    from pipeline.model.checkpoint import checkpoint_digest
    from pipeline.model.config import Method
    from pipeline.model.huggingface import locate_backbone
    from pipeline.model.reference import Reference
    from pipeline.model.task import refuse_other_task
    from pipeline.model.transformer import PrunedTransformer
    from pipeline.training.batches import Sets, TokenisedSet
    from pipeline.training.config import RunConfig, TrainConfig
    from pipeline.training.evaluation import evaluate, reaches_ratio
    from pipeline.training.examples import TrainingExamples
    from pipeline.training.resume import RECORD, RunState, claimed, writing
    from pipeline.training.setup import Trainee, make_trainee
    from pipeline.training.suited import for_set, suited, unreachable
    from pipeline.training.teaching import taught
    from pipeline.training.trainer import Trainer, make_progress


def parser() -> argparse.ArgumentParser:
    """The command line; every flag is a field of TrainConfig."""
    p = argparse.ArgumentParser(
        prog=program("train"),
        description="Trains a text classifier that skips tokens, from a pretrained encoder (--backbone) or a dense "
        "checkpoint (--init), which then also teaches the pruned model. An interrupted run goes on "
        "where it stopped, with the same settings and files.",
        epilog="example: python -m pipeline.train --method ltp --data movie-reviews --init runs/dense --out runs/ltp",
    )
    default = {name: f.get_default(call_default_factory=True) for name, f in TrainConfig.model_fields.items()}

    def flag(name: str, text: str, **more) -> None:  # type: ignore[no-untyped-def]
        shown = default[name.replace("-", "_")]
        p.add_argument(f"--{name}", help=text if shown is None else f"{text} (default {shown})", **more)

    _add_data_flags(p)
    p.add_argument("--out", required=True, type=Path, help="directory of the checkpoint and of run.json")
    p.add_argument("--backbone", help="pretrained encoder: a Hugging Face directory or an installed package")
    p.add_argument(
        "--init",
        help="trained checkpoint to start from; of the same method, its pruner goes on as it is, but for what "
        "--decide-at, --keep-rate and --no-protect-first change",
    )
    p.add_argument(
        "--teacher",
        help="checkpoint of the same task and tokenizer to distil from (default: --init, for a pruned method)",
    )
    flag(
        "epochs",
        "epochs of each phase: fine-tune, then soft and hard (ltp) or straight-through",
        type=float,
        nargs="+",
    )
    flag(
        "phases", "phases to go through, of fine_tune, soft, straight_through and hard; all of the method's", nargs="+"
    )
    flag("max-length", "tokens per input (default: those of --init; at most 256 with --backbone)", type=int)
    flag("limit", "use only N training examples", type=int)
    flag("dev-limit", "use only N dev examples", type=int)
    _add_optimiser_flags(flag)
    flag(
        "adapter-rank",
        "rank of low-rank adapters; 0 trains all weights (default: that of --init; 16 for layers of more than 150 "
        "million weights)",
        type=int,
    )
    _add_pruning_flags(p, flag)
    p.add_argument("--bf16", action="store_true", help="bfloat16 matrix products (faster where the CPU has them)")
    flag("threads", "CPU threads", type=int)
    flag("seed", "seed of everything random", type=int)
    return p


def _add_data_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--method", required=True, choices=get_args(Method))
    p.add_argument(
        "--data",
        required=True,
        help=f"{', '.join(NAMED_SETS)}, a file (.jsonl, .csv, .tsv, .parquet, .json of SQuAD, .conll), or a directory "
        "that Hugging Face's datasets has saved; with --init, labels may be missing: "
        "the texts are then trained by the teacher's answers",
    )
    p.add_argument(
        "--dev-data",
        help="the set for early stopping (default: a named set's dev split; of a file, a tenth that is held out)",
    )
    p.add_argument(
        "--task",
        choices=get_args(HeadKind),
        help="what the labels are: classes, amounts, the relevance of the second text, a passage, for the first, a "
        "query, or none, for an embedding (default: that of --init; else amounts if they are numbers of which some "
        "have a fraction; several labels, spans and answers by their form; and classes otherwise)",
    )
    add_column_flags(p)


def _add_pruning_flags(p: argparse.ArgumentParser, flag: Callable[..., None]) -> None:
    flag("flops-ratio", "dense over pruned FLOPs to reach", type=float)
    flag("ramp", "share of the run over which the ratio rises", type=float)
    flag("keep-rate", "topk: share kept per layer; threshold: 1 minus the constant", type=float)
    flag("predictor-hidden", "width of Transkimmer's predictors; with --init of that method, theirs", type=int)
    flag(
        "decide-at",
        "the layers that decide; each is a cut that costs a call, so few sharp decisions lose less of the saving than "
        "many mild ones; all (ltp, topk, threshold: all but the first) unless --init has others",
        type=int,
        nargs="+",
    )
    p.add_argument(
        "--no-protect-first", dest="protect_first", action="store_const", const=False, help="let the first token die"
    )
    p.add_argument(
        "--protect-segment",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="keep every token of the first text of a pair, such as a query (default: in a ranking)",
    )


def _add_optimiser_flags(flag: Callable[..., None]) -> None:
    flag("distil", "weight of the teacher in the loss", type=float)
    flag(
        "distil-tokens",
        "weight of the tokens that the teacher looks at behind the first decision, which is to rank them so (ltp, "
        "transkimmer; default 1 for ltp whose only phase is hard, else 0)",
        type=float,
    )
    flag("evaluations", "dev evaluations per phase", type=int)
    flag("patience", "stop after N evaluations without gain", type=int)
    flag(
        "batch-tokens",
        "padded tokens per batch (default: a hundredth of the training set's, from 512 to 4096)",
        type=int,
    )
    flag(
        "lr",
        "learning rate of the encoder or its adapters (default: 5e-4 for adapters; for all weights 3e-5 at a width of "
        "768, more for narrower encoders)",
        type=float,
    )
    flag("head-lr", "learning rate of the head (default: --lr for that of --init, 5e-4 for a new one)", type=float)
    flag(
        "pruner-lr",
        "learning rate of predictors, and of LTP's thresholds in units of 1 / max-length (default: 2e-3, and more in "
        "fewer than 600 steps)",
        type=float,
    )
    flag("weight-decay", "AdamW's weight decay", type=float)
    flag("warm-up", "share of the steps with a rising learning rate", type=float)


def run(args: argparse.Namespace) -> int:
    """Trains and writes the checkpoint and run.json."""
    out: Path = args.out
    given = {name: value for name, value in vars(args).items() if name != "out" and value is not None}
    try:
        config = TrainConfig(**given)
    except ValidationError as error:
        raise InputError.listing("arguments", validation_problems(error)) from None
    if config.threads:
        torch.set_num_threads(config.threads)
    with claimed(out):
        return _train(config, out)


def _train(given: TrainConfig, out: Path) -> int:
    examples, config = TrainingExamples.read(given), suited(given)
    trainee = make_trainee(config, examples.labels, examples.head)
    encoder, head = trainee.model.config.encoder, trainee.model.config.head
    tokens = TextEncoder(trainee.tokenizer, config.max_length, encoder.type_vocab_size, origins=head.token_level)
    taught_by = config.teacher or (config.init if config.method != "dense" else None)
    teacher = None
    if taught_by and config.distils:
        refuse_other_task("--teacher", taught_by, trainee.model.config, trainee.tokenizer)
        teacher = load_checkpoint(taught_by)
    if head.kind == "embedding":
        if teacher is None:
            raise InputError("an embedding is learned from another: expected a pruned --method, or one with --teacher")
    else:
        examples, config = _labelled(examples, config, teacher, tokens)
    train, dev, labels = examples.train, examples.dev, examples.labels
    train_set = _tokenised(config.data, train, tokens, labels, encoder.pad_token_id, head.kind)
    config = for_set(config, sum(map(len, train_set.tokens)))
    dev_set = _tokenised(config.dev_data or config.data, dev, tokens, labels, encoder.pad_token_id, head.kind)
    if head.kind == "embedding" and teacher is not None:
        dev_set.against = [answer.numpy() for answer in Reference.of(teacher, dev_set.tokens).logits]
    _report(examples, {config.data: train_set, config.dev_data or config.data: dev_set}, config.max_length)
    if problem := unreachable(config, trainee.model.config, [len(sample) for sample in train_set.tokens]):
        print(f"WARNING: {problem}", file=sys.stderr)
    progress = make_progress()
    with progress:
        content = _content(config, trainee, train, dev)
        result = Trainer(config, trainee, Sets(train_set, dev_set), out, teacher, content).run(progress)
    final = evaluate(load_checkpoint(out), dev_set, config.batch_tokens * 2)
    reached = {"metric": final.metric, "flops_ratio": final.flops_ratio, "keep": final.keep}
    record = {
        "command": "python -m pipeline.train " + shlex.join(sys.argv[1:]),
        "config": config.model_dump(),
        "data": {"train": [len(train), examples_digest(train)], "dev": [len(dev), examples_digest(dev)]},
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()},
        "history": result.history,
        "dev": reached,
    }
    with writing(out):
        write_whole(out / RECORD, (json.dumps(record, indent=1) + "\n").encode())
        RunState.remove(out)
    print(json.dumps({"checkpoint": str(out), **reached}))
    if not reaches_ratio(config, final):
        print(
            f"WARNING: {out}: the FLOPs ratio is {final.flops_ratio:.2f}, {config.flops_ratio} was asked for; go on "
            f"from --init {out} for more epochs; its phase hard moves the decisions to the ratio first",
            file=sys.stderr,
        )
    return 0


def _labelled(
    examples: TrainingExamples, config: RunConfig, teacher: PrunedTransformer | None, tokens: TextEncoder
) -> tuple[TrainingExamples, RunConfig]:
    """Sets without labels get the teacher's; a training set of those is trained by the teacher alone."""
    bare = [not has_labels(examples.train), not has_labels(examples.dev)]
    if not any(bare):
        return examples, config
    if teacher is None:
        raise InputError(
            f"{config.data}: its texts have no labels, and there is no teacher: expected a pruned --method and "
            "--distil above 0, or labels"
        )
    said = "texts without labels get the answers of --teacher or --init, with which the dev metric is the agreement"
    train = taught(examples.train, teacher, tokens) if bare[0] else examples.train
    dev = taught(examples.dev, teacher, tokens) if bare[1] else examples.dev
    if bare[0]:
        config = config.model_copy(update={"distil": 1.0})
    return replace(examples, train=train, dev=dev, taken=[*examples.taken, said]), config


def _report(examples: TrainingExamples, sets: dict[str, TokenisedSet], max_length: int) -> None:
    """Says what was taken, before work starts."""
    for line in examples.taken:
        print(f"data  {line}", file=sys.stderr)
    odd = list(examples.odd)
    for name, tokenised in sets.items():
        if cut := sum(tokens.full_length > max_length for tokens in tokenised.tokens):
            odd.append(f"{name}: {cut} of {len(tokenised)} texts are longer than --max-length {max_length}, and cut")
    for line in odd:
        print(f"WARNING: {line}", file=sys.stderr)


def _tokenised(
    name: str,
    examples: Sequence[Example],
    tokens: TextEncoder,
    labels: Sequence[str] | None,
    pad_token_id: int,
    kind: HeadKind,
) -> TokenisedSet:
    """The set of the examples of `name`. Raises InputError, which names it, for texts and labels that do not fit."""
    try:
        return TokenisedSet(examples, tokens, labels, pad_token_id, kind)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _content(config: RunConfig, trainee: Trainee, train: Sequence[Example], dev: Sequence[Example]) -> dict[str, str]:
    """Digests of all that the run reads, by what a user calls it."""
    content = {"the training texts": examples_digest(train), "the dev texts": examples_digest(dev)}
    content["the tokenizer"] = sha256(trainee.tokenizer)
    sources = {
        "--backbone": config.backbone and locate_backbone(config.backbone),
        "--init": config.init,
        "--teacher": config.teacher if config.distils else None,
    }
    return content | {name: checkpoint_digest(source) for name, source in sources.items() if source}


if __name__ == "__main__":
    main_of(parser, run)
