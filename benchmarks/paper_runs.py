"""The steps of the papers' tables: trainings, working points, artifacts and their times."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.paper_sets import SETS, PaperSet, Parts, write_parts
from benchmarks.training import trained
from benchmarks.verbs import child_seconds
from benchmarks.working_points import exchange, model_at, padding_gain, save_at, strength_of
from calib.data import Example, examples_digest, read_examples, relabelled
from calib.held_out import write_rows
from engines.runner import Runner
from engines.tokenization import Text, TextEncoder, Tokens
from pipeline.builder.config import DEMO, BuildConfig
from pipeline.builder.measure import alternate
from pipeline.builder.steps import build
from pipeline.builder.subject import encoder_of, tokens_of
from pipeline.model.checkpoint import load_checkpoint, read_config, tokenizer_path
from pipeline.model.config import Method
from pipeline.model.transformer import PrunedTransformer
from pipeline.training.batches import TokenisedSet
from pipeline.training.evaluation import evaluate
from pipeline.training.resume import RECORD

METHODS: tuple[Method, ...] = ("ltp", "transkimmer", "topk", "threshold")
PADDED = (128, 512)
"""Lengths that a padded baseline computes: LTP's, and the customary one of long texts."""
BUDGET = 1.0
"""Most points of accuracy that a working point may lose to be built and timed."""
BATCHES = (1, 8, 32)
_CALIBRATION, _TIMED, _ROUNDS, _TOKENS = 128, 64, 3, 4096
"""Texts that decisions are moved on; texts and rounds of a timing; padded tokens of a batch of an evaluation."""


@dataclass(frozen=True)
class PaperRuns:
    """Every step returns what the record keeps of it; `found` are the steps before it, by their keys."""

    data: Path | None
    work: Path
    seed: int
    found: dict[str, dict]

    def parts(self, name: str) -> Parts:
        """The files of a set and the texts to evaluate on."""
        return write_parts(name, self.data, self.work / name)

    def dense(self, name: str) -> dict:
        """Trains the dense model, and measures it."""
        parts, of = self.parts(name), SETS[name]
        training = {"command": "the demo's"}
        if of.epochs is not None:
            words = _to_train_dense(of, parts.dense)
            training = self.train(self.work / name / "dense", words)
        checkpoint = self.checkpoint(name, "dense")
        model = load_checkpoint(checkpoint)
        accuracy = measured(model, checkpoint, parts.evaluated)["accuracy"]
        return {"training": training, "accuracy": accuracy, "data": examples_digest(parts.evaluated)}

    def padding(self, name: str) -> dict:
        """What padding costs a dense model on the texts to evaluate on, which follows from their lengths alone."""
        checkpoint, texts = self.checkpoint(name, "dense"), [e.content for e in self.parts(name).evaluated]
        longest, config = SETS[name].max_length, read_config(checkpoint)
        lengths = [len(sample) for sample in TextEncoder(tokenizer_path(checkpoint), longest)(texts)]
        gains = {str(to): round(padding_gain(config, lengths, to), 3) for to in PADDED if to >= longest}
        return {"texts": len(lengths), "tokens": round(statistics.mean(lengths), 1), "gain": gains}

    def trained(self, name: str, method: Method) -> dict:
        """Trains a method, or says what stands for it."""
        of, parts = SETS[name], self.parts(name)
        out = self.work / name / method
        if of.epochs is None:
            return self.shipped(name, method, out)
        return {"training": self.pruned(name, method, parts.pruned, out)}

    def shipped(self, name: str, method: Method, out: Path) -> dict:
        """What the demo's checkpoints give: a method's own, or a baseline's rule in the LTP model, untrained."""
        if (DEMO / method).is_dir():
            reached = json.loads((DEMO / method / "run.json").read_text("utf-8"))["dev"]["flops_ratio"]
            return {"training": {"command": "the demo's", "at": round(reached, 2)}}
        exchange(DEMO / "ltp", method, SETS[name].pruned.decides_at, out)
        return {"training": {"command": "none: the demo's LTP model with this rule instead", "at": None}}

    def pruned(self, name: str, method: Method, data: Path, out: Path, dense: Path | None = None) -> dict:
        """Trains a method from the dense model, which also teaches it."""
        recipe, start = SETS[name].recipe(method), dense or self.checkpoint(name, "dense")
        words = [*_to_train(method, data, recipe.epochs), "--init", start, "--decide-at", recipe.decides_at]
        if method in ("ltp", "transkimmer"):
            words += ["--flops-ratio", recipe.trained_at, "--phases", *recipe.phases]
            words += ["--distil-tokens", 1] if method == "transkimmer" and recipe.phases == ("hard",) else []
        else:  # what the untrained rule needs to reach the ratio
            aside = out.with_name(f"{out.name}-start")
            exchange(start, method, recipe.decides_at, aside)
            moved = model_at(aside, recipe.trained_at, self.samples(aside, data))
            words += ["--keep-rate", round(1 - strength_of(moved.pruner), 4)]
        return {**self.train(out, list(map(str, words))), "at": recipe.trained_at}

    def train(self, out: Path, words: Sequence[str]) -> dict:
        """Runs pipeline.train, if it has not run yet; how, and its processor time: None if that was not kept."""
        cost, before, done = out / "cost.json", child_seconds(), (out / RECORD).is_file()
        run = trained([*words, "--seed", self.seed], out)
        if not done:
            cost.write_text(json.dumps(child_seconds() - before), "utf-8")
        return {
            "command": run["command"],
            "texts": run["data"]["train"][0],
            "data": run["data"]["train"][1],
            "cpu_minutes": round(json.loads(cost.read_text("utf-8")) / 60, 2) if cost.is_file() else None,
            "dev": run["dev"]["metric"],
        }

    def checkpoint(self, name: str, method: str) -> Path:
        """Where a model of a set is: trained here, or the demo's."""
        shipped = SETS[name].epochs is None and (DEMO / method).is_dir()
        return DEMO / method if shipped else self.work / name / method

    def samples(self, checkpoint: Path, data: Path) -> list[Tokens]:
        """The tokens of the first texts to train on, on which decisions are moved."""
        return tokens_of(checkpoint, load_checkpoint(checkpoint), read_examples(str(data))[:_CALIBRATION])

    def point(self, name: str, method: Method, ratio: float) -> dict:
        """Moves a trained model to a ratio on training texts, and measures it on the others."""
        parts, checkpoint = self.parts(name), self.checkpoint(name, method)
        model = model_at(checkpoint, ratio, self.samples(checkpoint, parts.pruned))
        found = measured(model, checkpoint, parts.evaluated)
        drop = 100 * (self.found[f"{name}/dense"]["accuracy"] - found["accuracy"])
        return {**found, "drop_points": round(drop, 2)}

    def best(self, name: str, method: Method) -> float | None:
        """The ratio that was asked for at the fastest point within the budget; None: every point loses more."""
        points = {ratio: self.found[f"{name}/{method}/{ratio:g}"] for ratio in SETS[name].ratios}
        within = [ratio for ratio, point in points.items() if point["drop_points"] <= BUDGET]
        return max(within, key=lambda ratio: points[ratio]["flops_ratio"], default=None)

    def artifact(self, name: str, method: Method) -> dict:
        """Builds the artifact of a method's best point, or of the dense model, for one thread of the CPU in fp32."""
        parts, checkpoint = self.parts(name), self.checkpoint(name, method)
        out, ratio = self.work / name / f"{method}-artifact", None
        if method != "dense":
            ratio = self.best(name, method)
            if ratio is None:
                return {"asked": None}
            model = model_at(checkpoint, ratio, self.samples(checkpoint, parts.pruned))
            source, checkpoint = checkpoint, self.work / name / f"{method}-{ratio:g}"
            save_at(model, source, checkpoint)
        settings = {"samples": 32, "threads": 1, "precision": "fp32", "force": True}
        config = BuildConfig(checkpoint=checkpoint, data=str(parts.test), out=out, **settings)  # type: ignore[arg-type]
        built = build(config, Console(stderr=True))
        return {"asked": ratio, "gates": {gate.name: gate.status for gate in built.manifest.gates}}

    def times(self, name: str, method: Method) -> dict:
        """Times a method's artifact and the dense one in turns, by the processor's clock: other work shares it."""
        if self.found[f"{name}/artifact/{method}"]["asked"] is None:
            return {"over_dense": {}}
        texts = [example.content for example in self.parts(name).evaluated[:_TIMED]]
        seconds = {str(batch): self.seconds(name, method, batch, texts) for batch in BATCHES}
        faster = {batch: round(of["dense"] / of[method], 3) for batch, of in seconds.items()}
        return {"texts": len(texts), "rounds": _ROUNDS, "threads": 1, "seconds": seconds, "over_dense": faster}

    def seconds(self, name: str, method: str, batch: int, texts: Sequence[Text]) -> dict[str, float]:
        """The median processor time of both artifacts over all texts."""
        ways: dict[str, Callable[[Sequence[Text]], object]] = {}
        for of in ("dense", method):
            path = self.work / name / f"{of}-artifact"
            runner = Runner(path, threads=1, max_batch=batch, truncate=True, verify=False)
            runner.warm_up()
            runner(list(texts[:32]))
            ways[of] = runner
        found = alternate(ways, texts, _ROUNDS, clock=time.process_time)
        return {of: round(chunks[0], 4) for of, chunks in found.items()}

    def lengths(self, name: str, method: Method) -> dict:
        """Trains on texts up to the median length of those to evaluate on, and measures by their length."""
        parts, folder = self.parts(name), self.work / f"{name}-short"
        of, dense, out = SETS[name], self.checkpoint(name, "dense"), folder / method
        model = load_checkpoint(dense)
        count = [len(sample) for sample in tokens_of(dense, model, parts.evaluated)]
        ends = [int(value) for value in statistics.quantiles(count, n=4)[1:]] + [max(count)]
        folder.mkdir(parents=True, exist_ok=True)
        training = folder / "train.jsonl"
        write_rows(training, self.short(dense, model, read_examples(str(parts.dense)), ends[0]))
        if method == "dense":
            trained, short = self.train(out, _to_train_dense(of, training)), load_checkpoint(out)
        else:
            trained = self.pruned(name, method, training, out, folder / "dense")
            short = model_at(out, of.recipe(method).trained_at, self.samples(out, training))
        groups, least = {}, 0
        for end in ends:
            chosen = [e for e, n in zip(parts.evaluated, count, strict=True) if least < n <= end]
            groups[f"{least + 1} to {end}"] = {"texts": len(chosen), **measured(short, out, chosen)}
            least = end
        return {"training": trained, "longest": ends[0], "groups": groups}

    def short(self, checkpoint: Path, model: PrunedTransformer, examples: list[Example], most: int) -> list[Example]:
        """The examples of at most so many tokens."""
        samples = tokens_of(checkpoint, model, examples)
        return [example for example, sample in zip(examples, samples, strict=True) if len(sample) <= most]


def measured(model: PrunedTransformer, checkpoint: Path, examples: Sequence[Example]) -> dict:
    """Accuracy and FLOPs ratio of a model, run as it is deployed: with dropped tokens removed."""
    config = model.config
    labelled, _ = relabelled(examples, config.head.labels)
    encode = encoder_of(checkpoint, model)
    data = TokenisedSet(labelled, encode, config.head.labels, config.encoder.pad_token_id)
    found = evaluate(model, data, _TOKENS)
    return {"accuracy": round(found.metric, 4), "flops_ratio": round(found.flops_ratio, 3)}


def _to_train(method: str, data: Path, epochs: float) -> list[str]:
    words = f"--method {method} --adapter-rank 32 --evaluations 2 --threads 1 --epochs {epochs:g}".split()
    return [*words, "--data", str(data)]


def _to_train_dense(of: PaperSet, data: Path) -> list[str]:
    assert of.epochs is not None
    (backbone, rate), words = of.backbone, _to_train("dense", data, of.epochs)
    return [*words, "--backbone", backbone, "--max-length", str(of.max_length), "--lr", f"{rate:g}"]
