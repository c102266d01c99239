"""A pruned reranker against its dense model: nDCG@10 on the test split, FLOPs, and time per query, also of OpenVINO's.

python -m benchmarks.reranking runs/reranker --runs runs/short runs/dense runs/ltp --json FILE [--processor-time]
python -m benchmarks.reranking --table benchmarks/results/reranking-cpu.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.records import add_record_flags, printed, require_json, write_record
from calib.bm25 import BM25
from calib.data import Example, examples_digest, read_examples, splits_of
from calib.ranking import by_query, mrr, ndcg, queries_of
from engines.artifact import Artifact
from engines.errors import InputError
from engines.machine import machine_record
from engines.manifest import Manifest
from engines.prediction import Prediction
from engines.runner import Runner
from engines.tokenization import Text
from pipeline.builder.measure import alternate
from pipeline.builder.stock import NAME, StockModel
from pipeline.cli import main_of
from pipeline.model.checkpoint import read_config
from pipeline.model.flops import flops_ratio
from pipeline.report.markdown import table
from pipeline.training.suited import deciding_layers

PASSAGES = 32
"""Of a timed query: its own, and those of the next one."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.reranking", description=(__doc__ or "").splitlines()[0])
    p.add_argument("artifact", type=Path, nargs="?", help="the pruned model's; the dense one is beside it")
    p.add_argument("--runs", type=Path, nargs="+", default=[], help="training runs that led to it, for the record")
    p.add_argument("--data", default="bbc-headlines", help="named set of a ranking (default bbc-headlines)")
    p.add_argument("--queries", type=int, default=3, help=f"queries that are timed, of {PASSAGES} passages (default 3)")
    p.add_argument("--rounds", type=int, default=3, help="times that every query is timed (default 3)")
    p.add_argument("--threads", type=int, default=1, help="CPU threads of the engines (default 1)")
    p.add_argument(
        "--processor-time", action="store_true", help="instead of wall-clock time, where the machine is busy"
    )
    p.add_argument(
        "--only", choices=("dense", "pruned"), help="only rank with this one, for a later run with the same --json"
    )
    add_record_flags(p)
    return p


def run(args: argparse.Namespace) -> int:
    """Measures, writes the record and prints its table."""
    if printed(args, table_of):
        return 0
    require_json(args)
    if args.artifact is None:
        raise InputError("expected an artifact, found none")
    artifacts = {"dense": args.artifact.with_name(f"{args.artifact.name}-dense"), "pruned": args.artifact}
    examples = read_examples(args.data, "test")
    known = json.loads(args.json.read_text("utf-8")).get("ranked", {}) if args.json.is_file() else {}
    record: dict = {"ranked": known | {"BM25": ranked(examples, bm25_scores(args.data, examples))}}
    for name in artifacts if args.only is None else (args.only,):
        record["ranked"][name] = ranked_by(artifacts[name], examples, args.threads, known.get(name))
    if args.only is None:
        manifest = Artifact.open(args.artifact, verify=False).manifest
        record |= {
            **machine_record(),
            "training": {path.name: json.loads((path / "run.json").read_text("utf-8")) for path in args.runs},
            "gates": [gate.model_dump() for gate in manifest.gates],
            "data": {"name": args.data, "split": "test", "pairs": len(examples), "sha256": examples_digest(examples)},
            "time": timed(artifacts, calls_of(examples)[: args.queries], args),
        }
    write_record(args.json, record)
    if args.only is None:
        print(table_of(record))
    return 0


def ranked_by(artifact: Path, examples: list[Example], threads: int, known: dict | None) -> dict:
    """How an artifact's engines rank every query, and at what FLOPs; from `known` if that is of the same engines."""
    manifest = Artifact.open(artifact, verify=False).manifest
    of = {"build": manifest.build_key, "pairs": examples_digest(examples)}
    if known is not None and all(known[name] == value for name, value in of.items()):
        return known
    runner = Runner(artifact, threads=threads, truncate=True, verify=False)
    found = runner([example.content for example in examples])
    return of | {"flops_ratio": flops_of(manifest, found)} | ranked(examples, [answer.logits[0] for answer in found])


def flops_of(manifest: Manifest, found: Sequence[Prediction]) -> float:
    """Dense over pruned FLOPs of all pairs together. Raises InputError where some decision does not end a stage."""
    config = read_config(Path(manifest.checkpoint.path))
    layers, stages = deciding_layers(config), len(manifest.plan.stages)
    if stages != 1 + len(layers):
        raise InputError(f"expected {1 + len(layers)} stages, one for each decision and one behind, found {stages}")
    rows = torch.tensor([answer.tokens for answer in found])[:, None].repeat(1, 1 + config.encoder.layers)
    for stage, layer in enumerate(layers):
        rows[:, 1 + layer :] = torch.tensor([answer.retention[stage] for answer in found])[:, None]
    return round(flops_ratio(config, rows), 4)


def ranked(examples: list[Example], scores: list[float]) -> dict:
    """The nDCG@10 and the reciprocal rank of every query."""
    relevance, found = [float(example.label) for example in examples], []
    for places in by_query(queries_of(examples)):
        of_one = [scores[n] for n in places], [relevance[n] for n in places], [0] * len(places)
        found.append((ndcg(*of_one), mrr(*of_one)))
    return {name: [round(pair[n], 4) for pair in found] for n, name in enumerate(("ndcg@10", "mrr@10"))}


def bm25_scores(data: str, examples: list[Example]) -> list[float]:
    """BM25 of every pair, with the passages of all splits in its index."""
    splits = (read_examples(data, split) for split in splits_of(data) or ["test"])  # type: ignore[arg-type]
    passages = list(dict.fromkeys(str(example.text_b) for split in splits for example in split))
    index, place = BM25(passages), {passage: number for number, passage in enumerate(passages)}
    return [float(index.scores(example.text)[place[str(example.text_b)]]) for example in examples]


def calls_of(examples: list[Example]) -> list[list[tuple[str, str]]]:
    """The pairs of every query with its own passages and the next one's, PASSAGES of them."""
    groups = by_query(queries_of(examples))
    passages = [[str(examples[place].text_b) for place in places] for places in groups]
    return [
        [(examples[own[0]].text, passage) for passage in (passages[number] + passages[number + 1])[:PASSAGES]]
        for number, own in enumerate(groups[:-1])
    ]


def timed(artifacts: dict[str, Path], calls: list[list[tuple[str, str]]], args: argparse.Namespace) -> dict:
    """Every way of answering the same queries, in turns: the artifacts, and the dense one's graph in stock OpenVINO."""
    length = Artifact.open(artifacts["dense"], verify=False).manifest.max_length
    stock = {
        f"{NAME}, {model.precision}": model
        for model in (StockModel(artifacts["dense"], PASSAGES, length, args.threads, fp32) for fp32 in (False, True))
    }
    runners = {
        name: Runner(path, threads=args.threads, max_batch=PASSAGES, truncate=True, verify=False)
        for name, path in artifacts.items()
    }
    pruned = runners["pruned"]
    ways: dict[str, Callable[[Sequence[Text]], object]] = {name: rerank(of) for name, of in runners.items()}
    ways |= stock
    for way in ways.values():
        way(calls[0])
    clock = time.process_time if args.processor_time else time.perf_counter
    medians = [alternate(ways, call, args.rounds, clock=clock) for call in calls]
    seconds = {name: [round(found[name][0], 4) for found in medians] for name in ways}
    pairs = [pair for call in calls for pair in call]
    return {
        "passages_of_a_query": PASSAGES,
        "queries": len(calls),
        "rounds": args.rounds,
        "threads": args.threads,
        "seconds": "of the processor" if args.processor_time else "of the clock",
        "largest_batch": {name: largest_batch(path) for name, path in artifacts.items()},
        "flops_ratio": flops_of(pruned.manifest, pruned(pairs)),
        "of_each_query": seconds,
        "pruned_over": {name: round(sum(s) / sum(seconds["pruned"]), 3) for name, s in seconds.items()},
    }


def largest_batch(artifact: Path) -> int:
    """The samples of an artifact's largest bucket that a runner of PASSAGES may take."""
    plan = Artifact.open(artifact, verify=False).manifest.plan
    batches = [bucket.batch for unit in range(len(plan.stages)) for bucket in plan.buckets_of(unit)]
    return max(batch for batch in batches if batch <= PASSAGES)


def rerank(runner: Runner) -> Callable[[Sequence[Text]], object]:
    """What answers pairs of one query."""
    runner.warm_up()
    return lambda pairs: runner.rerank(pairs[0][0], [pair[1] for pair in pairs])


def table_of(record: dict) -> str:
    """The document's table of a record."""
    found, spent, data = record["ranked"], record["time"], record["data"]
    milliseconds = {name: 1e3 * sum(s) / spent["queries"] for name, s in spent["of_each_query"].items()}
    rows = []
    for name in ("BM25", *milliseconds):
        metrics = [f"{np.mean(found[name][m]):.3f}" if name in found else "" for m in ("ndcg@10", "mrr@10")]
        ms = milliseconds.get(name)
        flops = f"{spent['flops_ratio']:.2f}x fewer" if name == "pruned" else "1.00x"
        cost = ["", "", ""] if ms is None else [flops, f"{ms:.0f}", f"{milliseconds['dense'] / ms:.2f}x"]
        rows.append((name if name in found else f"dense in {name}", *metrics, *cost))
    mean, error = lost(record)
    machine = record["machine"]
    queries = len(found["dense"]["ndcg@10"])
    note = (
        f"{data['name']}, {data['split']} split: {queries} queries, {data['pairs']} pairs. nDCG@10 of pruned less that "
        f"of dense: {-mean:+.4f}, with a standard error of {error:.4f} over the queries; "
        f"{found['pruned']['flops_ratio']:.2f}x fewer FLOPs on all pairs. Time: {spent['queries']} queries of "
        f"{spent['passages_of_a_query']} passages a call, medians of {spent['rounds']} rounds in turns, in seconds "
        f"{spent['seconds']}, {spent['threads']} thread of {machine['cpus']} cores of {machine['processor']}, OpenVINO "
        f"{record['versions']['openvino']}."
    )
    head = ("model", "nDCG@10", "MRR@10", "FLOPs", "ms per query", "over dense")
    return f"{table(head, rows, note)}\n\n{training_table(record)}"


def training_table(record: dict) -> str:
    """The runs that led to the models, one row each."""
    rows = []
    for name, of in record["training"].items():
        config, last = of["config"], of["history"][-1]
        fewer = f"{of['dev']['flops_ratio']:.2f}x fewer" if config["method"] != "dense" else "1.00x"
        pairs = round(of["data"]["train"][0] * sum(config["epochs"]))
        told = (f"{pairs:,}", str(config["threads"]), f"{last['seconds'] / 60:.0f}", str(of["data"]["dev"][0]))
        rows.append((name, str(config["max_length"]), *told, f"{of['dev']['metric']:.3f}", fewer))
    note = "Training. dev: the first so many pairs of the dev split, with the same passages each."
    head = ("run", "tokens", "pairs", "threads", "minutes", "dev pairs", "dev nDCG@10", "FLOPs")
    return table(head, rows, note)


def lost(record: dict) -> tuple[float, float]:
    """The nDCG@10 that the pruned model loses against the dense one, and its standard error over the queries."""
    drops = np.subtract(*(record["ranked"][name]["ndcg@10"] for name in ("dense", "pruned")))
    return float(drops.mean()), float(drops.std(ddof=1)) / len(drops) ** 0.5


if __name__ == "__main__":
    main_of(parser, run)
