"""Small training runs: separable data over the tiny vocabulary, settings that take seconds."""

from __future__ import annotations

import random
from pathlib import Path

from calib.data import Example
from engines.tokenization import TextEncoder
from pipeline.model import load_checkpoint
from pipeline.training.batches import Sets, TokenisedSet
from pipeline.training.config import RunConfig, TrainConfig
from pipeline.training.setup import Trainee, make_trainee
from pipeline.training.suited import suited
from pipeline.training.trainer import Trainer
from tests.conftest import WORDS

LABELS = ["bad", "good"]
BACKBONE_PHASES = {"dense": 1, "ltp": 3, "transkimmer": 3, "topk": 2, "threshold": 2}


def make_examples(count: int, seed: int) -> list[Example]:
    """Texts of 2 to 12 words; "good" ones hold w4, the others w5."""
    chance, examples = random.Random(seed), []
    for index in range(count):
        words = [f"w{chance.randrange(6, WORDS)}" for _ in range(chance.randint(1, 11))]
        words.insert(chance.randrange(len(words) + 1), "w4" if index % 2 else "w5")
        examples.append(Example(" ".join(words), LABELS[index % 2]))
    return examples


def make_config(backbone: Path | None, method: str, **changes) -> RunConfig:
    given = TrainConfig(
        **{
            "method": method,
            "data": "train.jsonl",
            "backbone": None if backbone is None else str(backbone),
            "max_length": 16,
            "batch_tokens": 128,
            "evaluations": 2,
            **({} if backbone is None else {"predictor_hidden": 8}),
            "flops_ratio": 1.5,
            **changes,
        }
    )
    return suited(given)


def make_set(config: RunConfig, trainee: Trainee, count: int, seed: int) -> TokenisedSet:
    tokens = TextEncoder(trainee.tokenizer, config.max_length)
    return TokenisedSet(make_examples(count, seed), tokens, LABELS, pad_token_id=0)


def make_trainer(config: RunConfig, out: Path, examples: int = 24, content: dict[str, str] | None = None) -> Trainer:
    """A run from its very start, as the verb makes it; `content`: what digests it is told of its inputs."""
    trainee = make_trainee(config, LABELS)
    train, dev = make_set(config, trainee, examples, seed=1), make_set(config, trainee, 8, seed=2)
    teacher = load_checkpoint(config.init) if config.init else None
    out.mkdir(exist_ok=True)
    return Trainer(config, trainee, Sets(train, dev), out, teacher, content or {})
