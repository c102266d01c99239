"""Libraries that call home do not, in whatever verb they are imported."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from engines.quiet import openvino_package
from tests.engines.toy import Toy

CALLS = """
import os, socket, urllib.request
def called(*arguments, **options):
    with open(os.environ["CALLS"], "a") as file:
        file.write(repr(arguments[:1]))
    raise OSError("no network in this test")
socket.getaddrinfo = socket.create_connection = urllib.request.urlopen = called
"""


@pytest.mark.parametrize("verb", ["run", "build"])
def test_nothing_calls_home_and_nothing_is_written_at_home(
    tmp_path: Path, tiny_tokenizer: Path, verb: str, provider: str
) -> None:
    """Fault 37: a user who has never decided on the libraries' telemetry, on no CI."""
    home, calls = tmp_path / "home", tmp_path / "calls"
    home.mkdir()
    (tmp_path / "sitecustomize.py").write_text(CALLS)
    path = [str(tmp_path), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    decided = ("CI", "GITHUB_", "ORT_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(decided)}
    environment |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join(path), "CALLS": str(calls)}
    if verb == "run":
        artifact = Toy().write(tmp_path / "artifact", tiny_tokenizer)
        command = ["-m", "pipeline.run", str(artifact), "--text", "w7 w8", "--provider", provider]
    else:
        told = f"[backend.unfit('int8') for backend in BACKENDS if backend.provider == {provider!r}]"
        command = ["-c", f"from engines.backends import BACKENDS; import pipeline.build; {told}"]
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not calls.exists() and not list(home.iterdir())


def test_openvino_is_as_the_user_has_imported_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    openvino_package.cache_clear()
    assert openvino_package() is openvino
    theirs = ModuleType("openvino_telemetry")
    monkeypatch.setitem(sys.modules, "openvino_telemetry", theirs)
    monkeypatch.delitem(sys.modules, "openvino")

    def importing(name: str) -> ModuleType:
        with pytest.raises(ModuleNotFoundError):
            importlib.__import__("openvino_telemetry")
        return openvino

    openvino_package.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", importing)
        assert openvino_package() is openvino
    assert sys.modules["openvino_telemetry"] is theirs
    openvino_package.cache_clear()
