"""The golden cases: their arrays, and their models as `pipeline.convert` writes them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from pipeline import convert
from pipeline.model import PrunedTransformer, load_checkpoint
from tests.gates.builds import run_verb

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "dense_bert_b3": "huggingface",
    "dense_roberta_b3": "huggingface",
    "ltp_b3_delta": "ltp",
    "tk_bert_feat_b1": "transkimmer",
    "tk_bert_master_b3": "transkimmer",
}
"""Each case, and whose code saved it."""


def write_tokenizer(path: Path) -> Path:
    """Writes a tokenizer.json of the golden models' 200 words."""
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    tokenizer = Tokenizer(models.WordLevel(special | {f"w{i}": i for i in range(4, 200)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(path))
    return path


def convert_case(case: str, source: Path, out: Path, tokenizer: Path, *more: object) -> int:
    """The exit code of the verb for a source like `case`, whose texts were padded to 32 tokens."""
    given = ("--from", CASES[case], source, out, "--tokenizer", tokenizer, "--padded-length", 32)
    return run_verb(convert, *given, *more)


@cache
def golden_model(case: str) -> PrunedTransformer:
    """The model of a case's converted checkpoint."""
    with TemporaryDirectory() as folder:
        tokenizer = write_tokenizer(Path(folder) / "tokenizer.json")
        assert convert_case(case, GOLDEN / case, Path(folder) / "out", tokenizer) == 0
        return load_checkpoint(Path(folder) / "out")


def arrays(case: str, name: str) -> dict[str, Tensor]:
    """`inputs` or `expected` of a case."""
    with np.load(GOLDEN / case / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}
