"""The model repository: config.pbtxt, the model's file, the artifact, and how to make the environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from engines.artifact import Artifact
from engines.errors import InputError
from engines.manifest import Manifest
from engines.version import __version__

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MODEL = Path(__file__).with_name("model.py")


@dataclass(frozen=True)
class TritonModel:
    """What the repository says of an artifact.

    batch, queue: texts of a request and of a call, and requests that wait. max_wait: seconds that they wait for others.
    threads: CPU threads of an instance; None leaves it to the library.
    Raises InputError, with all problems at once.
    """

    name: str
    batch: int = 64
    queue: int = 1024
    max_wait: float = 0.002
    instances: int = 1
    threads: int | None = None
    truncate: bool = False

    def __post_init__(self) -> None:
        counts = {"--max-batch": self.batch, "--queue": self.queue, "--instances": self.instances}
        counts |= {} if self.threads is None else {"--threads": self.threads}
        problems = [f"{flag}: expected at least 1, found {value}" for flag, value in counts.items() if value < 1]
        if not _NAME.fullmatch(self.name):
            problems.append(f"--name: expected letters, digits, '_', '-' and '.', found {self.name!r}")
        if not 0 <= self.max_wait <= 10:
            problems.append(f"--max-wait-ms: expected 0 to 10000, found {1000 * self.max_wait:g}")
        if problems:
            raise InputError.listing("export_triton", problems)

    def config(self, manifest: Manifest) -> str:
        """config.pbtxt. An instance is on a GPU where the artifact has no engines for a CPU."""
        kind = "KIND_CPU" if {"cpu", "torch"} & manifest.built.keys() else "KIND_GPU"
        inputs = [_tensor("TEXT", "TYPE_STRING", 1), _tensor("TEXT_PAIR", "TYPE_STRING", 1, optional=True)]
        outputs = [_tensor(name, *form) for name, form in outputs_of(manifest).items()]
        parameters = {"truncate": str(self.truncate).lower()}
        if self.threads is not None:
            parameters["threads"] = str(self.threads)
        lines = [
            f"# Made by skimrt {__version__} of an artifact of {manifest.created}.",
            f"name: {json.dumps(self.name)}",
            'backend: "python"',
            f"max_batch_size: {self.batch}",
            f"input [\n{_listed(inputs)}\n]",
            f"output [\n{_listed(outputs)}\n]",
            "dynamic_batching {",
            f"  max_queue_delay_microseconds: {round(1e6 * self.max_wait)}",
            f"  default_queue_policy {{ max_queue_size: {self.queue} }}",
            "}",
            f"instance_group [ {{ count: {self.instances} kind: {kind} }} ]",
            *(
                f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}"
                for key, value in parameters.items()
            ),
        ]
        return "\n".join(lines) + "\n"

    def write(self, artifact: Artifact, repository: Path, link: bool = False) -> Path:
        """Writes the model into a repository, which other models may share, and returns its folder.

        link: a symbolic link to the artifact instead of a copy. Raises InputError where the name is taken, or nothing
        can be written.
        """
        folder = repository / self.name
        if os.path.lexists(folder):
            raise InputError(f"{folder}: expected a new model, found one of that name; remove it or choose a --name")
        if repository.resolve().is_relative_to(artifact.path.resolve()):
            raise InputError(f"REPO {repository}: lies inside the artifact; choose another folder")
        try:
            repository.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{self.name}.", dir=repository) as partial:
                self._fill(Path(partial) / self.name, artifact, link)
                os.rename(Path(partial) / self.name, folder)
        except OSError as error:
            raise InputError(f"REPO {repository}: cannot be written: {error.strerror or error}") from None
        return folder

    def _fill(self, folder: Path, artifact: Artifact, link: bool) -> None:
        version = folder / "1"
        version.mkdir(parents=True)
        (folder / "config.pbtxt").write_text(self.config(artifact.manifest), "utf-8")
        (folder / "README.md").write_text(_README.format(name=self.name, extra=_extra(artifact.manifest)), "utf-8")
        shutil.copyfile(_MODEL, version / "model.py")
        if link:
            (version / "artifact").symlink_to(artifact.path.resolve(), target_is_directory=True)
            return
        for name in ("manifest.json", *artifact.manifest.files):
            (version / "artifact" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.path / name, version / "artifact" / name)


def outputs_of(manifest: Manifest) -> dict[str, tuple[str, int]]:
    """Of every output its type and how many there are for a text; `model.outputs_of` makes them."""
    head = manifest.head
    outputs = {"RECORD": ("TYPE_STRING", 1), "TOKENS": ("TYPE_INT32", 1)}
    outputs["RETENTION"] = ("TYPE_INT32", len(manifest.plan.stages))
    if head.kind == "classification":
        outputs |= {"LABEL": ("TYPE_STRING", 1), "SCORE": ("TYPE_FP32", 1), "LOGITS": ("TYPE_FP32", head.outputs)}
    elif head.kind == "multi_label":
        outputs |= {"SCORE": ("TYPE_FP32", head.outputs), "LOGITS": ("TYPE_FP32", head.outputs)}
    elif head.one_value:
        outputs["SCORE"] = ("TYPE_FP32", 1)
    elif head.kind == "embedding":
        outputs["EMBEDDING"] = ("TYPE_FP32", head.outputs)
    return outputs


def _tensor(name: str, kind: str, count: int, optional: bool = False) -> str:
    more = " optional: true" if optional else ""
    return f'  {{ name: "{name}" data_type: {kind} dims: [ {count} ]{more} }}'


def _listed(tensors: list[str]) -> str:
    return ",\n".join(tensors)


def _extra(manifest: Manifest) -> str:
    if "cpu" in manifest.built:
        return "runtime"
    return "cpu" if "torch" in manifest.built else "gpu"


_README = """\
# {name}

A model of Triton's Python backend, written by `skimrt export_triton`. Triton's image lacks SkimRT; an image with it:

```dockerfile
FROM nvcr.io/nvidia/tritonserver:YY.MM-py3
RUN pip install 'skimrt[{extra}]'
```

`YY.MM` is 23.09 or newer, with Python 3.10 to 3.13. Start it with `--shm-size=1g` and
`tritonserver --model-repository=/models`. `1/artifact` is the artifact: its files are compared with their digests when
the model is loaded, so replace it as a whole, by a new export.
"""
