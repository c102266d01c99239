"""A toy model whose stages are a few nodes each: artifacts in a second, and a numpy reference of a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from engines.artifact import digest_files
from engines.backends import BACKENDS
from engines.buckets import Bucket, parse_buckets
from engines.head import Head
from engines.manifest import TOKENIZER_NAME, Checkpoint, Encoder, EngineRecord, Manifest
from engines.manifest_file import write_manifest
from engines.plan import Plan, StagePlan, graph_file, weights_file
from engines.tokenization import Tokens
from pipeline.graph.function import OPSET, token_compact_function

WORDS, WIDTH, CLASSES, MAX_LENGTH = 60, 4, 2, 24
THRESHOLDS = (-0.4, -0.1)
BUCKETS = parse_buckets("1x4,1x8,1x12,1x24,3x4,3x8,3x12,3x24")
LABELS = {
    "classification": ["no", "yes"],
    "regression": ["value"],
    "ranking": ["value"],
    "question_answering": ["start", "end"],
    "tagging": ["O", "B"],
}
NAN_WORD = WORDS - 1
"""The word whose embedding is NaN."""

# Every alive token moves a quarter of the way to the mean of the alive tokens; dead ones stay as they are.
_MIX = """
  weight = Cast <to = 1> (alive)
  column = Unsqueeze (weight, minus_one)
  alive_rows = Mul (state, column)
  total = ReduceSum <keepdims = 1> (alive_rows, one_axis)
  number = ReduceSum <keepdims = 1> (column, one_axis)
  some = Max (number, one)
  mean = Div (total, some)
  way = Sub (mean, state)
  part = Mul (way, quarter)
  moved = Mul (part, column)
  mixed = Add (state, moved)
"""
_FIRST = """
  words = Gather (table, input_ids)
  types = Cast <to = 1> (token_type_ids)
  shift = Unsqueeze (types, minus_one)
  state = Add (words, shift)
  shape = Shape (input_ids)
  size = Gather (shape, one_index)
  range = Range (zero_index, size, one_index)
  range32 = Cast <to = 6> (range)
  position = Expand (range32, shape)
"""
_CUT = """
  score = Gather <axis = 2> (mixed, zero_index)
  packed, packed_alive, packed_position, count =
    skimrt.TokenCompact <threshold: float = {threshold}, capacity: int = 0, protect_first: int = {protect}>
    (mixed, score, alive, position)
"""
_END = "  final_alive = Identity (alive)\n  final_position = Identity (position)\n"
_LAST = "  first = Gather <axis = 1> (mixed, zero_index)\n  logits = MatMul (first, classifier)\n" + _END
_LAST_TOKEN_LEVEL = "  final_hidden = Identity (mixed)\n" + _END

_ROWS, _STATE = "int32[B,S]", f"float[B,S,{WIDTH}]"
_FIRST_IN = f"{_ROWS} input_ids, {_ROWS} token_type_ids, {_ROWS} alive"
_LATER_IN = f"{_STATE} state, {_ROWS} alive, {_ROWS} position"
_CUT_OUT = f"{_STATE} packed, {_ROWS} packed_alive, {_ROWS} packed_position, int32[B] count"
_LAST_OUT = f"float[B,C] logits, {_ROWS} final_alive, {_ROWS} final_position"
_LAST_OUT_TOKEN_LEVEL = f"{_STATE} final_hidden, {_ROWS} final_alive, {_ROWS} final_position"


@dataclass(frozen=True)
class Toy:
    """Weights, thresholds and head of a toy model."""

    thresholds: Sequence[float] = THRESHOLDS
    head: str = "classification"
    protect_first: bool = True
    labels: Sequence[str] = ()

    @property
    def token_level(self) -> bool:
        return self.head in ("question_answering", "tagging")

    @property
    def names(self) -> list[str]:
        return list(self.labels or LABELS[self.head])

    @property
    def table(self) -> np.ndarray:
        table = np.random.default_rng(0).normal(size=(WORDS, WIDTH)).astype(np.float32)
        table[NAN_WORD] = np.nan
        return table

    @property
    def classifier(self) -> np.ndarray:
        return np.random.default_rng(1).normal(size=(WIDTH, len(self.names))).astype(np.float32)

    def graph(self, unit: int | str) -> onnx.ModelProto:
        """The stage graph of a unit, as the exporter writes it."""
        last = unit == len(self.thresholds)
        if unit == "head":
            inputs, outputs, body = f"{_STATE} state", "float[B,S,C] logits", "logits = MatMul (state, classifier)"
        else:
            assert isinstance(unit, int)
            inputs = _FIRST_IN if unit == 0 else _LATER_IN
            body = (_FIRST if unit == 0 else "") + _MIX
            if last:
                outputs = _LAST_OUT_TOKEN_LEVEL if self.token_level else _LAST_OUT
                body += _LAST_TOKEN_LEVEL if self.token_level else _LAST
            else:
                outputs = _CUT_OUT
                body += _CUT.format(threshold=float(self.thresholds[unit]), protect=int(self.protect_first))
        text = (
            f"""<ir_version: 10, opset_import: ["": {OPSET}, "skimrt": 1]> stage ({inputs}) => ({outputs}) {{{body}}}"""
        )
        model = onnx.parser.parse_model(text.replace("state", "hidden") if unit != 0 else text)
        constants = {
            "table": self.table,
            "classifier": self.classifier,
            "minus_one": np.array([-1]),
            "one_axis": np.array([1]),
            "one": np.array(1, np.float32),
            "quarter": np.array(0.25, np.float32),
            "zero_index": np.array(0),
            "one_index": np.array(1),
        }
        used = {name for node in model.graph.node for name in node.input}
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in constants.items() if name in used
        )
        if unit != "head" and not last:
            model.functions.append(token_compact_function())
        onnx.checker.check_model(model)
        return model

    def write(self, directory: Path, tokenizer: Path, buckets: Sequence[Bucket] = BUCKETS) -> Path:
        """An artifact of the toy model; returns its directory."""
        backend = next(backend for backend in BACKENDS if backend.target == "cpu")
        (directory / "stages").mkdir(parents=True)
        (directory / TOKENIZER_NAME).parent.mkdir()
        (directory / TOKENIZER_NAME).write_bytes(tokenizer.read_bytes())
        units: list[int | str] = [*range(len(self.thresholds) + 1), *(["head"] if self.token_level else [])]
        graphs = {unit: graph_file(unit) for unit in units}
        for unit, graph in graphs.items():
            onnx.save(self.graph(unit), directory / graph)
        engines = []
        for unit, graph in graphs.items():
            file = f"engines/cpu-fp32/{backend.engine_name(unit)}"
            backend.build(directory / graph, buckets, directory / file)
            weights = weights_file(file) if (directory / weights_file(file)).exists() else None
            kind = {"target": "cpu", "precision": "fp32", "weights": weights}
            engines.append(EngineRecord(stage=unit, profiles=tuple(buckets), file=file, **kind))
        write_manifest(
            directory,
            Manifest(
                skimrt_version="0",
                created="now",
                build_key="0" * 64,
                method="toy",
                head=Head(kind=self.head, labels=self.names),
                max_length=MAX_LENGTH,
                encoder=Encoder(
                    family="toy",
                    hidden_size=WIDTH,
                    layers=len(self.thresholds) + 1,
                    heads=1,
                    vocab_size=WORDS,
                    type_vocab_size=2,
                    pad_token_id=0,
                ),
                protect_first=self.protect_first,
                checkpoint=Checkpoint(path="toy", sha256="0" * 64),
                plan=Plan(
                    stages=[StagePlan(graph=graphs[u], steps=["mix"]) for u in units if u != "head"],
                    head_graph=graphs.get("head"),
                    buckets=list(buckets),
                ),
                engines=engines,
                files=digest_files(directory),
            ),
        )
        return directory

    def reference(self, tokens: Tokens) -> tuple[np.ndarray, list[list[int]]]:
        """Logits, and the positions alive at the end of every stage, of one unpadded sample."""
        state = self.table[tokens.input_ids] + np.array(tokens.token_type_ids, np.float32)[:, None]
        alive = np.ones(len(tokens), bool)
        survivors = []
        for threshold in [*self.thresholds, None]:
            if alive.any():
                state[alive] += (state[alive].mean(0) - state[alive]) * np.float32(0.25)
            if threshold is not None:
                passed = state[:, 0] >= np.float32(threshold)
                passed[0] |= self.protect_first
                alive = alive & passed
            survivors.append(np.nonzero(alive)[0].tolist())
        return (state if self.token_level else state[0]) @ self.classifier, survivors


def random_tokens(seed: int, count: int, longest: int = MAX_LENGTH) -> list[Tokens]:
    """Random samples of 1 to `longest` tokens."""
    rng = np.random.default_rng(seed)
    return [tokens_of(rng, int(rng.integers(1, longest + 1))) for _ in range(count)]


def tokens_of(rng: np.random.Generator, length: int) -> Tokens:
    """A random sample of a length."""
    ids, types = rng.integers(0, NAN_WORD, length), rng.integers(0, 2, length)
    return Tokens(ids.tolist(), types.tolist(), length)


def words(count: int, first: int = 4) -> str:
    return " ".join(f"w{4 + (first + i) % (NAN_WORD - 4)}" for i in range(count))
