"""The first translators of a run: what dropped tokens add to a mean, before anything is trained."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pipeline.model import PrunedTransformer
from pipeline.model.config import HeadConfig
from pipeline.training.translators import fit_translators
from tests.conftest import WIDTH, TinyModel
from tests.model.samples import as_tokens, make_samples, run


def embedder(base: PrunedTransformer, method: str) -> PrunedTransformer:
    """The model with an embedding of the mean; a pruned one has fresh translators."""
    head = HeadConfig(kind="embedding", size=WIDTH, pooling="mean", normalise=True)
    pruner = base.config.pruner.model_copy(update={"translated": method != "dense"})
    model = PrunedTransformer(base.config.model_copy(update={"head": head, "pruner": pruner}))
    known = {name: value for name, value in base.state_dict().items() if not name.startswith("head.")}
    model.load_state_dict({**model.state_dict(), **known})
    return model.eval()


def agreement(model: PrunedTransformer, dense: PrunedTransformer, samples: list[torch.Tensor]) -> float:
    """The mean cosine of both models' embeddings."""
    pairs = zip(run(model, samples), run(dense, samples), strict=True)
    return float(torch.stack([F.cosine_similarity(a.logits, b.logits, dim=0) for a, b in pairs]).mean())


def test_they_predict_what_the_layers_behind_would_have_made_of_a_token(tiny_model: TinyModel) -> None:
    dense = embedder(tiny_model("dense"), "dense")
    for method in ("ltp", "transkimmer", "topk"):
        model = embedder(tiny_model(method), method)
        encoder = {n: v for n, v in dense.state_dict().items() if not n.startswith("pruner.")}
        model.load_state_dict({**model.state_dict(), **encoder})
        held_out = make_samples(model, [20, 25, 30, 14], 1)
        before = agreement(model, dense, held_out)
        fit_translators(model, as_tokens(make_samples(model, [25] * 60, 2)))
        assert agreement(model, dense, held_out) > before


def test_what_was_learned_stays(tiny_model: TinyModel) -> None:
    model = embedder(tiny_model("ltp"), "ltp")
    assert model.pruner.translators is not None
    known, *fresh = model.pruner.translators.values()
    torch.nn.init.normal_(known.weight)
    before = [linear.weight.clone() for linear in (known, *fresh)]
    fit_translators(model, as_tokens(make_samples(model, [25] * 20, 2)))
    after = [linear.weight for linear in (known, *fresh)]
    assert torch.equal(before[0], after[0])
    assert fresh and not any(torch.equal(a, b) for a, b in zip(before[1:], after[1:], strict=True))
