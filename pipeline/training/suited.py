"""Settings that suit the model that a run starts from, for those that nobody has given."""

from __future__ import annotations

from pathlib import Path

import torch

from engines.errors import InputError
from pipeline.model.checkpoint import CONFIG_NAME, read_config
from pipeline.model.config import CheckpointConfig, EncoderConfig, HeadConfig, Method
from pipeline.model.flops import count_flops, dense_flops
from pipeline.model.huggingface import locate_backbone, read_huggingface_config
from pipeline.model.huggingface.layout import is_model
from pipeline.training.config import RunConfig, TrainConfig
from pipeline.training.evaluation import LEARN_THEIR_RATIO, REACHED

_ADAPTER_RATE = _FRESH_HEAD_RATE = 5e-4
_BASE_RATE, _BASE_WIDTH = 3e-5, 768
"""Learning rate of all weights at the width of BERT base. Narrower models need and bear larger ones."""
_WHOLE = 150e6
"""Most weights in layers that are all trained: AdamW holds four numbers for each."""
_RANK = 16
_BACKBONE_LENGTH = 256
"""Tokens per input that a new model is made for: attention makes more of them expensive to train."""
_STEPS, _BATCH = 100, (512, 4096)
"""Steps that an epoch should have, so that a small set teaches too; fewest and most padded tokens of a batch."""
_PRUNER_RATE, _MANY_STEPS, _FASTEST = 2e-3, 600, 10
"""A pruner's learning rate over so many steps; in fewer it must come as far, at most so many times faster."""


def suited(config: TrainConfig) -> RunConfig:
    """The settings with nothing left open: length, adapters, learning rates. Raises InputError for no such start.

    Batches are the largest ones, and pruners learn at their slowest; `for_set` changes both for a small set.
    """
    start = _start(config)
    rank = config.adapter_rank
    if rank is None:
        ours = config.init is not None and (Path(config.init) / CONFIG_NAME).is_file()
        known = start.adapter.rank if start.adapter else 0
        rank = known if ours or weights_in_layers(start.encoder) <= _WHOLE else _RANK
    lr = config.lr or (_ADAPTER_RATE if rank else whole_rate(start.encoder.hidden_size))
    longest = start.max_length if config.init else min(_BACKBONE_LENGTH, start.max_length)
    found = {
        "adapter_rank": rank,
        "lr": lr,
        "head_lr": config.head_lr or (lr if config.init else _FRESH_HEAD_RATE),
        "max_length": config.max_length or longest,
        "batch_tokens": config.batch_tokens or _BATCH[1],
        "pruner_lr": config.pruner_lr or _PRUNER_RATE,
        "distil_tokens": _distil_tokens(config, start.head) if config.distil_tokens is None else config.distil_tokens,
    }
    return RunConfig.model_construct(config.model_fields_set, **{**dict(config), **found})


def _distil_tokens(config: TrainConfig, head: HeadConfig) -> float:
    """The weight of the teacher's ranking of tokens: LTP that removes tokens from the start has no other way to learn
    which ones; a softer phase lets the task's own gradient through, and is not measured with it."""
    taught = config.distil > 0 and (config.init or config.teacher)
    alone = [phase.name for phase in config.schedule] == ["hard"]
    return 1.0 if config.method == "ltp" and taught and alone and not head.token_level else 0.0


def for_set(config: RunConfig, tokens: int) -> RunConfig:
    """The settings with batches and a pruner's rate for a training set of so many tokens, unless they were given."""
    given, (fewest, most) = config.model_fields_set, _BATCH
    size = config.batch_tokens if "batch_tokens" in given else min(most, max(fewest, tokens // _STEPS))
    learning = next((phase for phase in config.schedule if phase.steer), config.schedule[-1])
    steps = learning.epochs * max(1, tokens / size)
    rate = config.pruner_lr if "pruner_lr" in given else _PRUNER_RATE * min(_FASTEST, max(1.0, _MANY_STEPS / steps))
    return config.model_copy(update={"batch_tokens": size, "pruner_lr": round(rate, 6)})


def whole_rate(width: int) -> float:
    """The learning rate of all weights of an encoder of this width."""
    return round(min(_ADAPTER_RATE, _BASE_RATE * (_BASE_WIDTH / width) ** 1.5), 7)


def weights_in_layers(encoder: EncoderConfig) -> int:
    """Weights of the layers' matrices, without embeddings."""
    width, inner = encoder.hidden_size, encoder.intermediate_size
    return (4 * width**2 + encoder.feed_forward_products * width * inner) * (encoder.layer_groups or encoder.layers)


def unreachable(config: TrainConfig, model: CheckpointConfig, lengths: list[int]) -> str | None:
    """Why the model could not reach the FLOPs ratio if it dropped all that it may; None if it could.

    lengths: tokens of the training texts. Raises InputError with that for a ratio that was asked for.
    """
    if config.method not in LEARN_THEIR_RATIO:
        return None
    most = most_ratio(model, torch.tensor(lengths))
    if most >= REACHED * config.flops_ratio:
        return None
    deciding = ", ".join(map(str, deciding_layers(model)))
    problem = (
        f"--flops-ratio {config.flops_ratio:g}: a model that decides at layers {deciding} reaches at most "
        f"{most:.2f} on these texts, even if it drops every token but the first; ask for less, or let an earlier "
        "layer decide with --decide-at"
    )
    if "flops_ratio" in config.model_fields_set:
        raise InputError(problem)
    return problem


def most_ratio(model: CheckpointConfig, lengths: torch.Tensor) -> float:
    """Dense FLOPs over those of a model that drops all but the first token at its first decision; lengths [samples]."""
    counts = lengths.expand(model.encoder.layers, -1).clone()
    counts[min(deciding_layers(model), default=model.encoder.layers) :] = 1
    return float(dense_flops(model, lengths).total.sum() / count_flops(model, lengths, counts).total.sum())


def deciding_layers(model: CheckpointConfig) -> list[int]:
    """The layers at which tokens can be dropped."""
    if model.pruner.method == "transkimmer":
        chosen = model.pruner.decides_at
        return list(range(model.encoder.layers)) if chosen is None else sorted(chosen)
    return model.pruner.reads_attention_at


def learned_method(head: HeadConfig) -> Method:
    """How a model learns to skip tokens where it is not said.

    LTP keeps what much attention goes to, whatever the task. That suits a head that reads the text as a whole. Where
    every token is answered for, Transkimmer's scores learn which answers are certain already.
    """
    return "transkimmer" if head.token_level else "ltp"


def early_layer(config: CheckpointConfig, method: Method) -> int:
    """The layer that decides where none is named: one sharp, early decision turns most of its FLOPs into time.

    The first quarter of the layers has seen the text; LTP reads attention, which must be global there. Transkimmer
    decides in front of a layer, LTP behind its attention, so a layer later it has seen as much. Where dropped tokens
    are answered for by the states that they leave, these come from the first third.
    """
    if config.head.token_level:
        wanted = config.encoder.layers // 3
    else:
        wanted = config.encoder.layers // 6 + (method == "transkimmer")
    fit = [layer for layer in range(config.encoder.layers) if layer not in config.encoder.local_layers]
    return min(fit, key=lambda layer: abs(layer - wanted))


def _start(config: TrainConfig) -> CheckpointConfig:
    if config.backbone is not None:
        return read_huggingface_config(locate_backbone(config.backbone), backbone=True)
    source = Path(config.init or "")
    if not (source / CONFIG_NAME).is_file() and not is_model(source):
        raise InputError(f"--init {source}: expected a {CONFIG_NAME} or a Hugging Face config.json, found neither")
    return read_config(source)
