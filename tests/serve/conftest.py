"""Toy artifacts of the kinds of heads that are served in ways of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from engines.runner import Runner
from tests.engines.toy import Toy
from tests.gates.builds import edit_manifest


@pytest.fixture(scope="session")
def runner_of(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Callable[[str], Runner]:
    """A warm runner of a kind of head; shared."""

    @lru_cache
    def make(head: str) -> Runner:
        toy = Toy(head="classification" if head == "embedding" else head)
        artifact = toy.write(tmp_path_factory.mktemp(head) / "artifact", tiny_tokenizer)
        if head == "embedding":
            edit_manifest(artifact, lambda content: content.update(head={"kind": "embedding", "size": 2}))
        runner = Runner(artifact, threads=1)
        runner.warm_up()
        return runner

    return make
