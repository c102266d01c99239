"""The runner: texts in, predictions out, through the staged engines of an artifact.

runner = Runner("artifact/")
runner(["one text", ("premise", "hypothesis")])
for prediction in runner.stream(lines): ...
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from engines.artifact import TOKENIZER_NAME, Artifact
from engines.backends import choose_backend
from engines.buckets import format_buckets
from engines.errors import InputError
from engines.prediction import Prediction, SampleResult, predict
from engines.samples import Sample
from engines.scheduler import Scheduler
from engines.stage_runner import StageRunner
from engines.tokenization import Text, TextEncoder, Tokens, text_problem

_TOKENISE_TOGETHER = 32


class Runner:
    """Runs an artifact. Safe to call from several threads; their engine calls take turns.

    path:      the artifact's directory; its files are compared with their digests first.
    target:    "auto" takes the best that the artifact was built for and this machine has.
    provider:  restricts a target to one library, such as "onnxruntime".
    threads:   CPU threads of a call; None leaves it to the library.
    max_batch: uses only buckets of at most so many samples; 1 answers every text before the next one starts.
    window:    samples in flight at most; bounds the memory of `stream`.
    truncate:  cuts texts that are longer than the model takes, which are an error otherwise.

    Raises InputError for an invalid artifact or argument, TargetError when nothing here can run its engines.
    """

    def __init__(
        self,
        path: str | Path,
        target: str = "auto",
        provider: str | None = None,
        threads: int | None = None,
        max_batch: int | None = None,
        window: int = 256,
        truncate: bool = False,
        verify: bool = True,
    ) -> None:
        for name, value in (("threads", threads), ("max_batch", max_batch), ("window", window)):
            if value is not None and value < 1:
                raise InputError(f"{name}: expected at least 1, found {value}")
        self.artifact = Artifact.open(path, verify)
        manifest = self.manifest = self.artifact.manifest
        self.backend = choose_backend(target, provider, [record.target for record in manifest.engines])
        self.buckets = [b for b in manifest.plan.buckets if max_batch is None or b.batch <= max_batch]
        if not self.buckets or max(b.length for b in self.buckets) < manifest.max_length:
            raise InputError(
                f"max_batch {max_batch}: the artifact's buckets are {format_buckets(manifest.plan.buckets)}"
            )
        self._stages = StageRunner(self.artifact, self.backend, threads)
        self._encode = TextEncoder(
            self.artifact.file(TOKENIZER_NAME), manifest.max_length, manifest.encoder.type_vocab_size
        )
        self._window, self._truncate = window, truncate

    def __call__(self, texts: Sequence[Text]) -> list[Prediction]:
        """One prediction per text, in order. Raises InputError for an empty or too long text."""
        return list(self.stream(texts))

    def stream(self, texts: Iterable[Text]) -> Iterator[Prediction]:
        """Predictions in the order of the texts, in bounded memory: reads at most `window` texts ahead."""
        return (predict(result, self.manifest.head) for result in self._run(self._tokens(texts)))

    def run_tokens(self, samples: Iterable[Tokens]) -> list[SampleResult]:
        """What every sample gave, with the tokens alive after every stage. Raises InputError for bad ids."""
        return list(self._run(samples))

    def warm_up(self) -> None:
        """Loads every engine now instead of at its first use."""
        self._stages.load_all(self.buckets)

    def _tokens(self, texts: Iterable[Text]) -> Iterator[Tokens]:
        rest, number = iter(texts), 0
        while chunk := list(islice(rest, min(_TOKENISE_TOGETHER, self._window))):
            for place, text in enumerate(chunk, number + 1):
                problem = text_problem(text)
                if problem is None and not "".join(text).strip():
                    problem = "expected at least one word, found an empty text"
                if problem is not None:
                    raise InputError(f"text {place}: {problem}")
            yield from self._encode(chunk)
            number += len(chunk)

    def _run(self, inputs: Iterable[Tokens]) -> Iterator[SampleResult]:
        scheduler = Scheduler(self._stages.units, self.buckets)
        flying: dict[int, Sample] = {}
        unyielded: deque[Sample] = deque()
        source = enumerate(inputs)
        more = True
        while more or unyielded:
            work = scheduler.next(flush=not more or len(unyielded) >= self._window)
            if work is not None:
                batch = [flying[number] for number in work.samples]
                self._stages.run(work.unit, work.bucket, batch)
                for sample in batch:
                    if sample.logits is None:
                        scheduler.add(sample.number, sample.unit, sample.rows)
                    else:
                        del flying[sample.number]
            elif more:
                entry = next(source, None)
                if entry is None:
                    more = False
                    continue
                number, tokens = entry
                self._check(number, tokens)
                sample = flying[number] = Sample(number, tokens)
                unyielded.append(sample)
                scheduler.add(number, sample.unit, sample.rows)
            while unyielded and unyielded[0].logits is not None:
                yield unyielded.popleft().result()

    def _check(self, number: int, tokens: Tokens) -> None:
        encoder, limit = self.manifest.encoder, self.manifest.max_length
        problems = []
        if len(tokens) == 0 or len(tokens) != len(tokens.token_type_ids):
            problems.append(
                f"expected ids and as many segment ids, found {len(tokens)} and {len(tokens.token_type_ids)}"
            )
        elif tokens.full_length > limit and not self._truncate:
            problems.append(f"{tokens.full_length} tokens, the model takes {limit}; shorten it or ask for truncation")
        elif len(tokens) > limit:
            problems.append(f"{len(tokens)} tokens, the model takes {limit}")
        else:
            for name, ids, size in (
                ("token id", tokens.input_ids, encoder.vocab_size),
                ("segment id", tokens.token_type_ids, encoder.type_vocab_size),
            ):
                if min(ids) < 0 or max(ids) >= size:
                    problems.append(f"expected every {name} in [0, {size}), found [{min(ids)}, {max(ids)}]")
        if problems:
            raise InputError(f"text {number + 1}: " + "; ".join(problems))
