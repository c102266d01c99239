"""A build depends on all that its plan and its INT8 ranges come from, so that no resume mixes two builds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.builder.config import BuildConfig
from pipeline.builder.start import Start
from tests.gates.builds import classifier


@pytest.fixture
def config(tiny_tokenizer: Path) -> BuildConfig:
    built = classifier(tiny_tokenizer)
    return BuildConfig(checkpoint=built.checkpoint, data=str(built.data), samples=4)


def changed(config: BuildConfig, **fields: object) -> BuildConfig:
    return BuildConfig.model_validate({**config.model_dump(), **fields})


def key(config: BuildConfig) -> str:
    return Start.of(config).key


def test_the_texts_that_are_planned_for_count(config: BuildConfig, tmp_path: Path) -> None:
    assert key(config) == key(changed(config, calibration=config.data)) == key(changed(config, max_drop=3.0))
    other = tmp_path / "other.tsv"
    other.write_text(Path(config.data).read_text().replace("w", "w1"))
    assert key(config) != key(changed(config, calibration=str(other)))


def test_what_int8_ranges_and_budget_come_from_counts(
    config: BuildConfig, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    dense = classifier(tiny_tokenizer).dense
    texts = tmp_path / "calibration.tsv"
    texts.write_text(Path(config.data).read_text() * 2)  # calibration wants more texts than the tests' set has
    int8 = changed(config, precision="int8", calibration=str(texts))
    keys = [key(int8), key(changed(int8, max_drop=3.0)), key(changed(int8, dense=dense))]
    texts.write_text(Path(config.data).read_text() * 3)
    keys.append(key(int8))
    assert len(set(keys)) == 4


def test_the_tokenizer_counts(config: BuildConfig, tmp_path: Path) -> None:
    other = Path(shutil.copytree(config.checkpoint, tmp_path / "other"))
    before = key(changed(config, checkpoint=other))
    assert before == key(config)
    file = other / "tokenizer.json"
    file.write_text(file.read_text("utf-8") + "\n", "utf-8")
    assert key(changed(config, checkpoint=other)) != before
