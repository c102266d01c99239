"""`--precision auto`: times the model in every precision of the target, and builds in the fastest whose gates pass."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from calib.int8.qdq import quantize_graph
from calib.int8.scheme import QuantizationScheme, quantizable_layers
from engines.artifact import Artifact
from engines.backends import Profile
from engines.buckets import Bucket
from engines.errors import GateError, SkimError
from engines.files import digest_of
from engines.machine import cache_folder
from engines.precisions import ComparedPrecision, told
from engines.writing import write_whole
from pipeline.builder.config import BuildConfig
from pipeline.builder.profile import where_timed
from pipeline.builder.progress import progress_bars
from pipeline.builder.start import Start
from pipeline.builder.subject import encoder_of
from pipeline.builder.target import BuildTarget
from pipeline.builder.timed_calls import calls_of
from pipeline.graph.stages import Stage, StageSpec, attentions, cut_stages, decision_layers
from pipeline.model.transformer import PrunedTransformer

WIDEST = "fp32"
WORTH = 0.95
"""Share of fp32's time that a narrower precision may take at most: it rounds, and times differ by some percent."""
_ROUNDS = 3

Milliseconds = Mapping[str, Mapping[int, float]]
"""Of a text in the uncut model, by precision and batch size."""


def in_fastest_precision(
    config: BuildConfig, console: Console, start_of: Callable[[BuildConfig], Start], build: Callable[[Start], Artifact]
) -> Artifact:
    """Builds in the precision that is asked for, or with `auto` in the fastest one whose gates pass.

    Raises what `start_of` and `build` raise; GateError where fp32 fails too.
    """
    first = start_of(config.settled)
    if config.precision != "auto":
        return build(first)
    compared = compare(first, console)
    while True:
        chosen = next(candidate for candidate in compared if not candidate.reason)
        console.print(f"precision  {told(compared)}", highlight=False, markup=False, soft_wrap=True)
        start = first if chosen.precision == first.config.precision else start_of(config.in_precision(chosen.precision))
        try:
            return build(replace(start, compared=tuple(compared)))
        except GateError as error:
            if chosen.precision == WIDEST:
                raise
            why = str(error).splitlines()[1].strip(" -") if "\n" in str(error) else str(error)
            compared = _next_fastest(compared, chosen.precision, f"a gate failed: {why}")


def compare(start: Start, console: Console) -> list[ComparedPrecision]:
    """The precisions of the target, the fastest first, all but one with the reason why another one is taken.

    start: in fp32. Nothing can be timed for another machine, whose artifact is then in fp32.
    """
    if start.target.cannot_run is not None:
        return _widest(dict.fromkeys(start.target.backend.precisions, f"not timed: {start.target.cannot_run}"))
    start.publisher().check()  # before minutes are spent
    targets, refused = _targets(start)
    with progress_bars(console) as progress:
        task = progress.add_task("precisions, by time", total=len(targets))
        found = _milliseconds(start, targets, refused, lambda: progress.advance(task))
    return ranked(found, refused)


def ranked(milliseconds: Milliseconds, refused: Mapping[str, str]) -> list[ComparedPrecision]:
    """The precisions by time, the taken one first, those refused last; a narrower one has to save 5 % of fp32's."""
    if WIDEST not in milliseconds:  # building in it says why
        return _widest({**dict.fromkeys(milliseconds, "fp32 cannot be timed"), **refused})
    totals = {precision: sum(by_batch.values()) for precision, by_batch in milliseconds.items()}
    order = sorted(totals, key=lambda precision: totals[precision] / (1 if precision == WIDEST else WORTH))
    reasons = {
        precision: f"slower than {order[0]}"
        if totals[precision] >= totals[order[0]]
        else "less than 5 % faster than fp32"
        for precision in order[1:]
    }
    timed = [
        ComparedPrecision(
            precision=precision,
            milliseconds={batch: round(value, 4) for batch, value in milliseconds[precision].items()},
            reason=reasons.get(precision, ""),
        )
        for precision in order
    ]
    return [*timed, *(ComparedPrecision(precision=name, reason=reason) for name, reason in refused.items())]


def _widest(reasons: Mapping[str, str]) -> list[ComparedPrecision]:
    """fp32, and why it is none of the others."""
    others = [ComparedPrecision(precision=name, reason=reasons[name]) for name in reasons if name != WIDEST]
    return [ComparedPrecision(precision=WIDEST), *others]


def _next_fastest(compared: Sequence[ComparedPrecision], failed: str, reason: str) -> list[ComparedPrecision]:
    """The same comparison with another one taken: the next in order that was timed, and is no slower than fp32."""
    noted = [found.model_copy(update={"reason": reason}) if found.precision == failed else found for found in compared]
    place = next(number for number, found in enumerate(noted) if found.precision == failed)
    following = next(found.precision for found in noted[place + 1 :] if found.milliseconds)
    return [found.model_copy(update={"reason": ""}) if found.precision == following else found for found in noted]


def _targets(start: Start) -> tuple[dict[str, BuildTarget], dict[str, str]]:
    """What is timed, by precision, and why the others are not."""
    targets, refused = {WIDEST: start.target}, dict[str, str]()
    for precision in start.target.backend.precisions:
        if precision == "int8" and start.config.calibration is None:
            refused[precision] = "without --calibration"
        elif precision != WIDEST:
            try:
                targets[precision] = BuildTarget.of(start.config.in_precision(precision))
            except SkimError as error:
                refused[precision] = str(error).splitlines()[0]
    return targets, refused


def _milliseconds(
    start: Start, targets: Mapping[str, BuildTarget], refused: dict[str, str], advance: Callable[[], None]
) -> Milliseconds:
    """Measured now, or by an earlier build of such an encoder on this machine; adds to `refused` what cannot be
    built."""
    length = _length(start)
    path = cache_folder("precisions") / f"{_key(start, targets, length)}.json"
    try:
        return {p: {int(b): ms for b, ms in by.items()} for p, by in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        found = measured(start, targets, length, refused, advance)
    if not refused.keys() & targets.keys():
        with suppress(OSError):  # it only saves time
            write_whole(path, (json.dumps(found) + "\n").encode())
    return found


def _key(start: Start, targets: Mapping[str, BuildTarget], length: int) -> str:
    """What the times depend on, as a file name. Decisions are no part of it: they are in float32 in every precision."""
    model, threads = start.subject.model, start.config.threads
    where = [where_timed(model, target, threads) for target in targets.values()]
    timed_here = {"layers": attentions(_longest_stage(model)), "batches": start.batches, "length": length}
    return digest_of({"where": where, "precisions": list(targets), **timed_here})[:32]


def measured(
    start: Start,
    targets: Mapping[str, BuildTarget],
    length: int,
    refused: dict[str, str],
    advance: Callable[[], None],
) -> Milliseconds:
    """Times the longest stage that the model can have at this length, in all precisions in turns."""
    model, threads = start.subject.model, start.config.threads
    shapes = [Bucket(batch=batch, length=length) for batch in start.batches]
    profiles: dict[tuple[str, Bucket], Profile] = {}
    with tempfile.TemporaryDirectory(prefix="skimrt-precision-") as folder:
        for precision, target in targets.items():
            try:
                engine_file = _build(start, target, shapes, Path(folder) / precision)
            except SkimError as error:
                refused[precision] = str(error).splitlines()[0]
                continue
            engine = target.backend.load(engine_file, threads, target.binding)
            profiles |= {(precision, shape): engine.profile(shape) for shape in shapes}
            advance()
    if WIDEST in refused:
        return {}
    seconds = timed(calls_of(profiles, model.config.encoder.vocab_size, model.config.head.token_level))
    if not start.target.backend.machine_bound:  # every bucket is then run by the faster of the two
        seconds |= {key: min(value, seconds[WIDEST, key[1]]) for key, value in seconds.items() if key[0] == "int8"}
    found: dict[str, dict[int, float]] = {}
    for (precision, shape), value in seconds.items():
        found.setdefault(precision, {})[shape.batch] = 1e3 * value / shape.batch
    return found


def timed(
    calls: Mapping[tuple[str, Bucket], Callable[[], object]], clock: Callable[[], float] = time.perf_counter
) -> dict[tuple[str, Bucket], float]:
    """Median seconds of every call, all of them in turns, so that drift meets all alike."""
    for call in calls.values():
        call()  # the first call of a shape compiles kernels
    seconds: dict[tuple[str, Bucket], list[float]] = {key: [] for key in calls}
    for _ in range(_ROUNDS):
        for key in sorted(calls, key=lambda key: (key[1], key[0])):
            started = clock()
            calls[key]()
            seconds[key].append(clock() - started)
    return {key: statistics.median(values) for key, values in seconds.items()}


def _build(start: Start, target: BuildTarget, shapes: Sequence[Bucket], folder: Path) -> Path:
    """Compiles the stage that is timed. INT8 needs no calibration for that: ranges do not change the time."""
    folder.mkdir()
    model, graph = start.subject.model, folder / "stage.onnx"
    start.export(Stage(model, _longest_stage(model)), model.config, graph, target.graph_precision)
    if target.precision == "int8":
        layers = quantizable_layers(model)
        quantize_graph(graph, QuantizationScheme(ranges=dict.fromkeys(layers, 1.0)), graph)
    engine_file = folder / f"engine{target.backend.suffix}"
    target.backend.build(graph, shapes, engine_file, target.options)
    return engine_file


def _longest_stage(model: PrunedTransformer) -> StageSpec:
    """The whole model, but where a token-level head wants it cut at every decision."""
    return max(cut_stages(model, decision_layers(model) if model.config.head.token_level else []), key=attentions)


def _length(start: Start) -> int:
    """Three quarters of typical texts' median in tokens: between a whole text and what is left behind a decision."""
    subject = start.subject
    encode = encoder_of(subject.checkpoint, subject.model, subject.typical_length)
    texts = [example.content for example in (subject.typical or subject.examples)]
    median = int(statistics.median(len(tokens) for tokens in encode(texts)))
    return max(2, 3 * median // 4)
