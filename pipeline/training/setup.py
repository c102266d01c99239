"""Makes the model that a run starts from: a backbone or a checkpoint, with a fresh pruner and, if asked, adapters."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from calib.labels import listed
from engines.errors import InputError, TargetError, validation_problems
from engines.tokenization import TextEncoder
from pipeline.model.checkpoint import CONFIG_NAME, load_checkpoint, read_config, save_checkpoint, tokenizer_path
from pipeline.model.config import (
    AdapterConfig,
    BackboneReference,
    CheckpointConfig,
    EncoderConfig,
    HeadConfig,
    PrunerConfig,
)
from pipeline.model.huggingface import encoder_directory, locate_backbone, read_huggingface, weights_digest
from pipeline.model.huggingface.layout import is_model
from pipeline.model.pruners import LTP_FLOOR, LtpPruner, TranskimmerPruner
from pipeline.model.transformer import PrunedTransformer
from pipeline.model.weights import find_weights, read_weights
from pipeline.training.config import RunConfig

_ADAPTED = r"(attention|feed_forward)\.\d+\.(query|key|value|output|gate|up|down)"
_LTP_START = 0.02
"""First LTP threshold, in units of the uniform score: low enough to keep every token at the start."""
_KEEP_START = 4.0
"""First Transkimmer score of every token. The paper's 10 leaves no gradient for the first epoch."""


@dataclass
class Trainee:
    """The model in training, its tokenizer, and how to write its checkpoint."""

    model: PrunedTransformer
    tokenizer: Path

    def trained_tensors(self) -> dict[str, Tensor]:
        """What is trained: everything, or (with adapters) the adapters, the head and the pruner."""
        state = self.model.state_dict()
        if self.model.config.adapter is None:
            return state
        from peft import get_peft_model_state_dict

        adapters = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        kept = {name: value for name, value in state.items() if name.startswith(("head.", "pruner."))}
        return {**{name.removeprefix("base_model.model."): value for name, value in adapters.items()}, **kept}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Puts what `trained_tensors` gave back into the model."""
        if self.model.config.adapter is None:
            self.model.load_state_dict(tensors)
            return
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.model, {name: v for name, v in tensors.items() if ".lora_" in name})
        self.model.load_state_dict({n: v for n, v in tensors.items() if ".lora_" not in n}, strict=False)

    def save(self, directory: Path) -> None:
        """Writes a checkpoint that `load_checkpoint` reads; learned thresholds go into its checkpoint.json too."""
        tensors, config = self.trained_tensors(), self.model.config
        if isinstance(self.model.pruner, LtpPruner):
            values = tensors.pop("pruner.thresholds").clamp_min(LTP_FLOOR).tolist()
            learned = [v if self.model.pruner.decides(layer) else 0.0 for layer, v in enumerate(values)]
            pruner = config.pruner.model_copy(update={"thresholds": learned})
            config = config.model_copy(update={"pruner": pruner})
        save_checkpoint(config, tensors, directory, self.tokenizer)


def make_trainee(config: RunConfig, labels: list[str] | None, head: HeadConfig | None = None) -> Trainee:
    """Returns the model at the start of a run. Raises InputError.

    labels: the classes; None means regression or ranking. head: a new one of another kind.
    """
    torch.manual_seed(config.seed)
    if head is None:
        kind = config.task if config.task in ("regression", "ranking") else "regression"
        head = HeadConfig(kind=kind, labels=["value"]) if labels is None else HeadConfig(labels=labels)
    origin = _from_backbone(config, head) if config.init is None else _from_checkpoint(config, head)
    try:
        described = CheckpointConfig(
            encoder=origin.encoder,
            head=origin.head,
            pruner=_described_pruner(config, origin),
            max_length=config.max_length,
            backbone=origin.backbone,
            adapter=origin.adapter,
        )
    except ValidationError as error:
        raise InputError.listing("arguments", validation_problems(error)) from None
    model = PrunedTransformer(described)
    _initialise_new_parts(model)
    if isinstance(model.pruner, LtpPruner):
        model.pruner.learn()
    pretrained = origin.backbone.name if origin.backbone is not None else config.backbone
    if pretrained is not None:
        _load_encoder(model, read_huggingface(locate_backbone(pretrained), backbone=True)[1], pretrained)
    trainee = Trainee(model, origin.tokenizer)
    if origin.adapter is None:
        _load_matching(model, origin.weights)
        return trainee
    _inject_adapters(model, origin.adapter)
    _load_matching(model, {name: value for name, value in origin.weights.items() if ".lora_" not in name})
    if learned := {name: value for name, value in origin.weights.items() if ".lora_" in name}:
        trainee.load_tensors(learned)
    return trainee


@dataclass(frozen=True)
class _Origin:
    """What a run starts from.

    weights: of a trained checkpoint; empty for a pretrained encoder. learned: its pruner, where the method is the same.
    """

    encoder: EncoderConfig
    head: HeadConfig
    tokenizer: Path
    backbone: BackboneReference | None
    adapter: AdapterConfig | None
    weights: dict[str, Tensor]
    learned: PrunerConfig | None


def _from_checkpoint(config: RunConfig, head: HeadConfig) -> _Origin:
    """Reads --init. Raises InputError for one of another task, or with other adapters or predictors."""
    assert config.init is not None
    source = Path(config.init)
    if not (source / CONFIG_NAME).is_file() and not is_model(source):
        raise InputError(f"--init {source}: expected a {CONFIG_NAME} or a Hugging Face config.json, found neither")
    started = read_config(source)
    # What a head calls its only value says nothing of the task, nor whether values rank or are amounts.
    values = started.head.one_value and head.one_value and config.task in (None, started.head.kind)
    if not values and (started.head.kind, started.head.labels) != (head.kind, head.labels):
        raise InputError(
            f"--init {source}: its head is a {started.head.kind} of {_shown(started.head.labels)}, the data is a "
            f"{head.kind}{'' if head.one_value else f' of {_shown(head.labels)}'}; start from a checkpoint of this task"
        )
    rank = started.adapter.rank if started.adapter else 0
    if rank != config.adapter_rank and (source / CONFIG_NAME).is_file():
        raise InputError(f"--init {source}: it has adapters of rank {rank}; pass --adapter-rank {rank}")
    backbone, adapter = started.backbone, started.adapter
    weights = dict(load_checkpoint(source).state_dict()) if adapter is None else read_weights(find_weights(source))
    if config.adapter_rank and adapter is None:  # its weights stay where they are, and only the head's are copied
        adapter = AdapterConfig(rank=config.adapter_rank, alpha=config.adapter_rank)
        backbone = BackboneReference(name=str(source.resolve()), sha256=weights_digest(encoder_directory(source)))
        weights = {name: value for name, value in weights.items() if name.startswith("head.")}
    learned = started.pruner if started.pruner.method == config.method else None
    width = None if learned is None else learned.predictor_hidden
    if width is not None and "predictor_hidden" in config.model_fields_set and config.predictor_hidden != width:
        raise InputError(
            f"--init {source}: its predictors are {width} wide; pass --predictor-hidden {width} or leave it out"
        )
    tokenizer = tokenizer_path(source)
    return _Origin(started.encoder, started.head, tokenizer, backbone, adapter, weights, learned)


def _from_backbone(config: RunConfig, head: HeadConfig) -> _Origin:
    """Reads the configuration of --backbone; its weights are loaded into the model later."""
    assert config.backbone is not None
    home = locate_backbone(config.backbone)
    encoder = read_huggingface(home, backbone=True)[0].encoder
    adapter = backbone = None
    if config.adapter_rank:
        adapter = AdapterConfig(rank=config.adapter_rank, alpha=config.adapter_rank)
        backbone = BackboneReference(name=config.backbone, sha256=weights_digest(encoder_directory(home)))
    return _Origin(encoder, head, tokenizer_path(home), backbone, adapter, {}, None)


def _shown(labels: Sequence[str]) -> str:
    return f"[{listed([repr(label) for label in labels])}]"


def _first_pruner(config: RunConfig, encoder: EncoderConfig) -> PrunerConfig:
    # As in the paper, whose thresholds start on a line through 0: the first layer does not decide. Nor do local ones,
    # whose attention says nothing of the whole text.
    reading = [layer > 0 and layer not in encoder.local_layers for layer in range(encoder.layers)]
    common = {"method": config.method, "protect_first": config.protect_first}
    match config.method:
        case "ltp":
            thresholds = [_LTP_START / config.max_length if reads else 0.0 for reads in reading]
            return PrunerConfig(**common, thresholds=thresholds, reference_length=config.max_length)
        case "transkimmer":
            return PrunerConfig(**common, predictor_hidden=config.predictor_hidden)
        case "topk":
            return PrunerConfig(**common, keep_rates=[config.keep_rate if reads else 1.0 for reads in reading])
        case "threshold":
            return PrunerConfig(**common, thresholds=[1 - config.keep_rate if reads else 0.0 for reads in reading])
        case _:
            return PrunerConfig(**common)


def _described_pruner(config: RunConfig, origin: _Origin) -> PrunerConfig:
    """The rule to train, with translators where the head reads the mean of all tokens."""
    pruner = origin.learned or _first_pruner(config, origin.encoder)
    asked = _protecting(_as_asked(pruner, config, origin.encoder.layers), config, origin)
    return asked.model_copy(update={"translated": origin.head.pools and asked.method != "dense"})


def _as_asked(pruner: PrunerConfig, config: RunConfig, layers: int) -> PrunerConfig:
    """The rule with the layers that decide, their rate and the first token as asked for.

    What was not asked for, and what a layer has learned, stays.
    """
    given = config.model_fields_set
    wanted = None if config.decide_at is None else sorted(set(config.decide_at))
    if wanted and wanted[-1] >= layers:
        raise InputError(f"--decide-at: expected layers from 0 to {layers - 1}, found {wanted[-1]}")
    update: dict[str, object] = {"protect_first": config.protect_first} if "protect_first" in given else {}
    if wanted is not None and pruner.method == "transkimmer":
        update["decides_at"] = wanted
    rules = {  # the field, its value where a layer does not decide, and what a layer starts to decide with
        "ltp": ("thresholds", 0.0, _LTP_START / config.max_length),
        "topk": ("keep_rates", 1.0, config.keep_rate),
        "threshold": ("thresholds", 0.0, 1 - config.keep_rate),
    }
    if pruner.method in rules:
        name, none, start = rules[pruner.method]
        values = getattr(pruner, name)
        deciding = wanted or [layer for layer, value in enumerate(values) if value != none]
        anew = "keep_rate" in given and pruner.method != "ltp"
        update[name] = [
            none if layer not in deciding else start if anew or value == none else value
            for layer, value in enumerate(values)
        ]
    return pruner.model_copy(update=update)


def _protecting(pruner: PrunerConfig, config: RunConfig, origin: _Origin) -> PrunerConfig:
    """The rule with the first text of a pair protected: as asked, else as it was, else where it is a query."""
    wanted = config.protect_segment
    if wanted is None:
        wanted = origin.head.kind == "ranking" if origin.learned is None else pruner.protect_until is not None
    if not wanted or pruner.method == "dense":
        return pruner.model_copy(update={"protect_until": None})
    separator = TextEncoder(origin.tokenizer, config.max_length).separator
    if separator is None:
        raise InputError(
            f"{origin.tokenizer}: expected a special token behind the first text of a pair, found none; "
            "pass --no-protect-segment"
        )
    return pruner.model_copy(update={"protect_until": separator})


def _initialise_new_parts(model: PrunedTransformer) -> None:
    for linear in [m for part in (model.head, model.pruner) for m in part.modules() if isinstance(m, nn.Linear)]:
        nn.init.normal_(linear.weight, std=0.02)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
    if isinstance(model.pruner, TranskimmerPruner):
        for predictor in model.pruner.predictors.values():
            cast(nn.Sequential, predictor)[-1].bias.data = torch.tensor([-_KEEP_START / 2, _KEEP_START / 2])
    if model.config.pruner.translated:
        model.pruner.add_translators(model.config.encoder)


def _load_encoder(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    expected = {name: v for name, v in model.state_dict().items() if not name.startswith(("head.", "pruner."))}
    problems = [f"{name}: missing" for name in expected if name not in weights]
    problems += [
        f"{name}: expected shape {list(v.shape)}, found {list(weights[name].shape)}"
        for name, v in expected.items()
        if name in weights and weights[name].shape != v.shape
    ]
    if problems:
        raise InputError.listing(f"backbone {source}", problems)
    _load_matching(model, weights)


def _load_matching(model: nn.Module, weights: dict[str, Tensor]) -> None:
    # strict=False only lets the new parts (head, pruner) and unused ones (another task's head) differ.
    expected = model.state_dict()
    fitting = {name: v for name, v in weights.items() if name in expected and v.shape == expected[name].shape}
    model.load_state_dict(fitting, strict=False)


def _inject_adapters(model: nn.Module, adapter: AdapterConfig) -> None:
    if importlib.util.find_spec("peft") is None:
        raise TargetError("the package peft is not installed; pip install 'skimrt[train]'")
    from peft import LoraConfig, inject_adapter_in_model

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=_ADAPTED), model)
    for part in (model.head, model.pruner):
        part.requires_grad_(True)
