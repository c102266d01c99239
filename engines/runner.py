"""The runner: texts in, predictions out, through the engines of an artifact.

runner = Runner("artifact/")
runner("one text")                               # -> Prediction
runner(["one text", ("premise", "hypothesis")])  # -> [Prediction, Prediction]
for prediction in runner.stream(lines): ...
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeGuard, overload

from engines.artifact import Artifact
from engines.backends import Backend, choose_backend, records_for
from engines.buckets import Bucket, format_buckets
from engines.errors import InputError, SkimError
from engines.inputs import Answer, Input
from engines.intake import TOKENISE_TOGETHER, Intake
from engines.manifest import TOKENIZER_NAME
from engines.prediction import Prediction, SampleResult, predict, predict_windows
from engines.reading import PLAIN, Reading
from engines.reranking import Ranked, ranked, refuse_other_use
from engines.samples import Sample
from engines.scheduler import Scheduler, cost_in
from engines.stage_runner import Call, StageRunner
from engines.tokenization import Text, TextEncoder, Tokens


class Runner:
    """Runs an artifact. Safe to call from several threads; their engine calls take turns.

    path:      the artifact's directory; the files that it uses are compared with their digests first.
    target:    "auto" takes the best that the artifact was built for and this machine has; or a backend itself.
    provider:  restricts a target to one library, such as "onnxruntime".
    threads:   CPU threads of a call; None leaves it to the library.
    max_batch: uses only buckets of at most so many samples; 1 answers every text before the next one starts.
    window:    samples that are regrouped together; bounds the memory of `stream`.
    truncate:  cuts texts that are longer than the model takes, which are an error otherwise.
    max_length: tokens that a text may have, where that is less than the model takes.
    reading:   what is made of the logits, where a head leaves a choice.
    streams:   on a GPU, calls that it works on at a time.
    cuda_graphs: on a GPU, every call is one CUDA graph.

    Raises InputError for an invalid artifact or argument, TargetError when nothing here can run its engines.
    """

    def __init__(
        self,
        path: str | Path,
        target: str | Backend = "auto",
        *,
        provider: str | None = None,
        threads: int | None = None,
        max_batch: int | None = None,
        window: int = 256,
        truncate: bool = False,
        verify: bool = True,
        max_length: int | None = None,
        reading: Reading = PLAIN,
        streams: int = 2,
        cuda_graphs: bool = True,
    ) -> None:
        limits = {"threads": threads, "max_batch (--batch)": max_batch, "window": window, "streams": streams}
        limits["max_length"] = max_length
        for name, value in limits.items():
            if value is not None and value < 1:
                raise InputError(f"{name}: expected at least 1, found {value}")
        self.artifact = Artifact.read(path)
        manifest = self.manifest = self.artifact.manifest
        if manifest.failed:
            raise InputError(
                f"artifact {path}: expected one whose gates passed, found FAILED: {', '.join(manifest.failed)}; "
                "pipeline.inspect shows why; build it again"
            )
        self._limit = min(manifest.max_length, max_length or manifest.max_length)
        if not isinstance(target, Backend):
            target = choose_backend(target, provider, manifest.built, manifest.bindings)
        self.backend = target
        used = [name for record in records_for(manifest, self.backend) for name in record.files]
        self.artifact.check([TOKENIZER_NAME, *used] if verify else ())
        self._buckets = [self._usable(manifest.plan.buckets_of(unit), max_batch) for unit in manifest.plan.units]
        self._stages = open_stages(self.artifact, self.backend, threads, streams, cuda_graphs)
        self._scheduler = Scheduler(self._buckets, cost_in(manifest.plan))
        self._encode = TextEncoder(
            self.artifact.file(TOKENIZER_NAME),
            self._limit,
            manifest.encoder.type_vocab_size,
            self.artifact.content(TOKENIZER_NAME).tobytes(),
            origins=manifest.head.token_level,
        )
        self.reading = reading
        self._window, self._truncate = 1 if max_batch == 1 else window, truncate
        stride = reading.stride if manifest.head.kind == "question_answering" else None
        self._intake = Intake(self._encode, manifest.encoder, self._limit, truncate, stride)

    @overload
    def __call__(self, texts: Text) -> Prediction: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, texts: Iterable[Text]) -> list[Prediction]: ...

    def __call__(self, texts: Text | Iterable[Text]) -> Prediction | list[Prediction]:
        """The prediction of one text or pair, or those of a list of them, in order.

        A tuple of two strings is a pair, a list of two is two texts. Raises InputError for an empty or too long text.
        """
        if _is_one(texts):
            return next(self.stream([texts]))
        return list(self.stream(texts))

    def stream(self, texts: Iterable[Text], failed: Callable[[SkimError], None] | None = None) -> Iterator[Prediction]:
        """Predictions in the order of the texts, in bounded memory: reads at most `window` texts ahead.

        failed: takes the error of a text that came to no finite numbers, in whose place there is no prediction then.
                Without it the error is raised there.
        """
        if _is_one(texts) or isinstance(texts, Mapping | bytes) or not isinstance(texts, Iterable):
            raise InputError(f"texts: expected several texts or pairs, such as a list, found a {type(texts).__name__}")
        if self._intake.in_windows(self._truncate):
            return self._answers(texts, failed)
        return (predict(result, self.manifest.head, self.reading) for result in self._run(self._tokens(texts), failed))

    def answers(self, inputs: Sequence[Input]) -> list[Answer]:
        """What every text gave, or its error in its place: none takes the answer of another, whoever they are from."""
        found = self._intake.each(inputs)
        samples = [
            Sample(one.number - 1, tokens)
            for one, windows in zip(inputs, found, strict=True)
            if isinstance(windows, list)
            for tokens in windows
        ]
        for start in range(0, len(samples), self._window):
            self._run_window(samples[start : start + self._window])
        left = iter(samples)
        return [_answer(list(islice(left, len(one)))) if isinstance(one, list) else one for one in found]

    def read(self, results: Sequence[SampleResult]) -> Prediction:
        """The prediction that an answer is. Raises InputError where it does not fit the head."""
        return predict_windows(results, self.manifest.head, self.reading)

    def _answers(self, texts: Iterable[Text], failed: Callable[[SkimError], None] | None) -> Iterator[Prediction]:
        """Answers to questions, about texts of any length; a text with a window that fails has none."""
        windows: deque[int] = deque()
        outcomes = self._outcomes(self._tokens(texts, windows))
        for first in outcomes:
            of_text = [first, *islice(outcomes, windows.popleft() - 1)]
            errors = [outcome for outcome in of_text if isinstance(outcome, SkimError)]
            if not errors:
                results = [outcome for outcome in of_text if isinstance(outcome, SampleResult)]
                yield predict_windows(results, self.manifest.head, self.reading)
            elif failed is not None:
                failed(errors[0])
            else:
                try:
                    raise errors[0]
                finally:  # as in `_run`
                    del first, of_text, errors

    def rerank(self, query: str, passages: Sequence[str], top_k: int | None = None) -> list[Ranked]:
        """The passages by their relevance for the query, the best first, each with the words that stayed alive.

        top_k: only the best so many. Raises InputError for a model that does not rank, and for bad texts.
        """
        refuse_other_use(self.manifest.head, query, passages, top_k)
        results = list(self._run(self._tokens((query, passage) for passage in passages)))
        return self.rank(query, passages, results, top_k)

    def rank(
        self, query: str, passages: Sequence[str], results: Sequence[SampleResult], top_k: int | None = None
    ) -> list[Ranked]:
        """What `rerank` gives, from the results of the pairs (query, passage)."""
        return ranked(query, passages, results, self._encode, top_k)

    def run_tokens(self, samples: Iterable[Tokens]) -> list[SampleResult]:
        """What every sample gave, with the tokens alive after every stage. Raises InputError for bad ids."""
        return list(self._run(samples))

    def warm_up(self) -> None:
        """Loads every engine now instead of at its first use, and runs it once."""
        self._stages.load_all(self._buckets)

    def _tokens(self, texts: Iterable[Text], windows: deque[int] | None = None) -> Iterator[Tokens]:
        return self._intake.stream(texts, min(TOKENISE_TOGETHER, self._window), windows)

    def _usable(self, buckets: Sequence[Bucket], max_batch: int | None) -> list[Bucket]:
        usable = [bucket for bucket in buckets if max_batch is None or bucket.batch <= max_batch]
        if max((bucket.length for bucket in usable), default=0) < self.manifest.max_length:
            raise InputError(
                f"max_batch {max_batch} (--batch): expected at least the smallest batch that is built for texts of any "
                f"length, found the buckets {format_buckets(buckets)}"
            )
        return usable

    def _run(
        self, inputs: Iterable[Tokens], failed: Callable[[SkimError], None] | None = None
    ) -> Iterator[SampleResult]:
        for outcome in self._outcomes(inputs):
            if isinstance(outcome, SampleResult):
                yield outcome
            elif failed is not None:
                failed(outcome)
            else:
                try:
                    raise outcome
                finally:  # the error knows this frame: held by it, both would wait for the garbage collector
                    del outcome

    def _outcomes(self, inputs: Iterable[Tokens]) -> Iterator[SampleResult | SkimError]:
        for window in self._windows(inputs):
            self._run_window(window)
            yield from map(_outcome, window)

    def _windows(self, inputs: Iterable[Tokens]) -> Iterator[list[Sample]]:
        """Checked samples, a window at a time; those in front of a bad one still run before its error is raised."""
        window: list[Sample] = []
        try:
            for number, tokens in enumerate(inputs):
                self._intake.check(number, tokens)
                window.append(Sample(number, tokens))
                if len(window) == self._window:
                    yield window
                    window = []
        except InputError:
            yield window
            raise
        yield window

    def _run_window(self, window: Sequence[Sample]) -> None:
        for unit in range(self._stages.units):
            self._run_unit(unit, [sample for sample in window if sample.error is None])

    def _run_unit(self, unit: int, window: Sequence[Sample]) -> None:
        """Regroups the samples of a window and takes them through a unit, with as many calls in flight as pay."""
        flight: deque[Call] = deque()
        for work in self._scheduler.calls(unit, [sample.rows for sample in window]):
            if len(flight) == self._stages.streams:
                self._stages.wait(flight.popleft())
            flight.append(self._stages.start(unit, work.bucket, [window[place] for place in work.samples]))
        while flight:
            self._stages.wait(flight.popleft())


def _outcome(sample: Sample) -> SampleResult | SkimError:
    return sample.result() if sample.error is None else sample.take_error()


def _answer(samples: Sequence[Sample]) -> Answer:
    """The results of a text's windows, or the first error of any."""
    outcomes = [_outcome(sample) for sample in samples]
    errors = [outcome for outcome in outcomes if isinstance(outcome, SkimError)]
    return errors[0] if errors else [outcome for outcome in outcomes if isinstance(outcome, SampleResult)]


def open_stages(
    artifact: Artifact, backend: Backend, threads: int | None, streams: int = 2, cuda_graphs: bool = True
) -> StageRunner:
    """The stage runner of a backend: over buffers of its device if it has one, else over host arrays.

    streams:     calls that a device works on at a time; without one there is one.
    cuda_graphs: a call on a device is one CUDA graph; otherwise its copies and kernels are queued one by one.
    """
    device = backend.device()
    if device is None:
        return StageRunner(artifact, backend, threads)
    from engines.device_stages import DeviceStageRunner  # which a deployment on a CPU never needs

    return DeviceStageRunner(artifact, backend, threads, device, streams, cuda_graphs)


def _is_one(texts: object) -> TypeGuard[Text]:
    return isinstance(texts, str) or (
        isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(part, str) for part in texts)
    )
