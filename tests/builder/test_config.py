"""The configuration of a build: file, flags on top, and every error at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import InputError
from pipeline import build
from pipeline.builder.config import DEMO, BuildConfig, read_build_config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file."""
    path = tmp_path / "build.toml"
    path.write_text('checkpoint = "mine"\nstages = 3\nbuckets = "1x64"\nforce = true\n', "utf-8")
    return path


def test_flags_override_the_file_and_the_file_the_defaults(file: Path) -> None:
    config = read_build_config(file, {"buckets": "8x128", "samples": 7, "out": None})
    expected = {"checkpoint": Path("mine"), "stages": "3", "buckets": "8x128", "force": True, "samples": 7}
    assert config == BuildConfig(**expected)
    assert config.out == Path("artifact")


def test_without_anything_the_shipped_demo_is_built() -> None:
    config = read_build_config(None, {})
    assert config.checkpoint == DEMO / "ltp" and config.dense_checkpoint == DEMO / "dense" and config.target == "cpu"


def test_the_shipped_dense_model_is_compared_with_shipped_models_only() -> None:
    assert BuildConfig(checkpoint=DEMO / "dense").dense_checkpoint is None
    assert BuildConfig(checkpoint=Path("mine")).dense_checkpoint is None
    assert BuildConfig(checkpoint=Path("mine"), dense=Path("its-dense")).dense_checkpoint == Path("its-dense")


def test_every_error_is_listed_at_once_with_what_was_meant(file: Path) -> None:
    file.write_text('bukets = "1x64"\nsamples = 0\nprecision = "fp8"\nmax_drop = nan\nnonsense_at_all = 1\n', "utf-8")
    with pytest.raises(InputError) as caught:
        read_build_config(file, {"threads": 0})
    message = str(caught.value)
    assert str(file) in message and "6 problem(s)" in message
    assert "bukets: " in message and "did you mean 'buckets'?" in message
    for part in ("samples: ", "found 0", "precision: ", "'fp8'", "max_drop: ", "nonsense_at_all: ", "threads: "):
        assert part in message
    assert message.count("did you mean") == 1


def test_what_was_found_is_told_once(file: Path) -> None:
    file.write_text('device = "abacus"\n', "utf-8")
    with pytest.raises(InputError) as caught:
        read_build_config(file, {})
    (line,) = str(caught.value).splitlines()
    assert f"{file}: device: expected one of A100, " in line and line.count("abacus") == 1


@pytest.mark.parametrize("content", [b"stages = ", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"build\.toml: expected a TOML file, found "):
        read_build_config(file, {})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: expected a TOML file"):
        read_build_config(tmp_path / "none.toml", {})


def test_every_field_has_a_flag_and_every_flag_a_field() -> None:
    flags = set(vars(build.parser().parse_args([]))) - {"config", "json"}
    assert flags == set(BuildConfig.model_fields)


def test_another_machine_is_given_what_is_built_and_not_how_it_was_run() -> None:
    config = BuildConfig(target="tensorrt", plugin=False, workspace=64, timing_cache=Path("kept"), jobs=2, force=True)
    assert config.arguments == ["--target", "tensorrt", "--no-plugin", "--workspace", "64"]


def test_no_flag_overrides_a_file_unless_it_is_given() -> None:
    arguments = vars(build.parser().parse_args([]))
    assert {name for name, value in arguments.items() if value is not None} == {"json"}
