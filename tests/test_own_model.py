"""The commands of docs/own-model.md, in its order, on a tiny classifier that transformers has saved."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from engines import Runner
from tests.gates.builds import run_verb
from tests.model.families import make_original
from tests.training.runs import make_examples

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own-model.md"
SMALL = {
    "skim": ["--flops-ratio", "1.3", "--max-drop", "100", "--buckets", "1x40,2x40", "--threads", "1"],
    "train": ["--flops-ratio", "1.3"],
    "build": ["--max-drop", "100", "--buckets", "1x40,2x40", "--threads", "1", "--precision", "fp32"],
    "parity": ["--max-drop", "100", "--threads", "1"],
}
"""What makes a command quick and a random model's loss no failure; the last of two flags counts."""


def commands() -> list[list[str]]:
    """The words of every command in front of the section on heads."""
    text = PAGE.read_text("utf-8").split("\n## Heads")[0]
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory as the page takes it for granted."""
    names = {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}}
    make_original("bert", num_labels=2, **names).save_pretrained(tmp_path / "my-classifier")
    (tmp_path / "my-classifier" / "tokenizer.json").write_bytes(tiny_tokenizer.read_bytes())
    for seed, name in enumerate(("mine", "dev", "test")):
        rows = [json.dumps({"text": e.text, "label": e.label}) for e in make_examples(60, seed)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    lines = ["stars,review", *(f"{e.label},{e.text}" for e in make_examples(60, 3))]
    (tmp_path / "reviews.csv").write_text("\n".join(lines) + "\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_page_run_as_they_stand(folder: Path) -> None:
    found = commands()
    assert [words[0] for words in found] == ["skim", "run", "train", "build", "parity", "report", "skim", "run"]
    for verb, *words in found:
        home = f"pipeline.{verb}"
        if hasattr(importlib.import_module(home), "__path__"):  # a package has its command line in a module of its own
            home += ".__main__"
        assert run_verb(importlib.import_module(home), *words, *SMALL.get(verb, [])) == 0, words
    for name in ("artifact", "artifact-2", "artifact-3"):
        assert Runner(folder / name).manifest.head.labels == ["good", "bad"]
        assert (folder / f"{name}.report.html").is_file()
