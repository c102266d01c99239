"""python -m pipeline.run: formats, order, errors by line, whole files or none, and bounded memory."""

from __future__ import annotations

import codecs
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from engines.errors import InputError
from pipeline import run
from tests.engines.toy import Toy

WORDS = ["w7 w8", "w9 w10 w11", "w12"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    return Toy().write(tmp_path_factory.mktemp("run") / "artifact", tiny_tokenizer)


@pytest.fixture
def answer(artifact: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict]]:
    """Runs the verb in this process; returns what it printed."""

    def call(*arguments: str) -> list[dict]:
        assert run.run(run.parser().parse_args([str(artifact), *map(str, arguments)])) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


def test_one_text_and_one_pair(answer) -> None:
    (single,) = answer("--text", "w7 w8")
    assert set(single) == {"label", "probability", "logits", "tokens", "retention"}
    assert single["tokens"] == 4 and single["label"] in ("no", "yes")
    (pair,) = answer("--text", "w7 w8", "--text-b", "w9")
    assert pair["tokens"] == 6


def test_every_format_gives_the_same_answers_in_order(answer, tmp_path: Path, monkeypatch) -> None:
    contents = {
        "a.jsonl": "\n".join(json.dumps({"text": text, "id": 1}) for text in WORDS) + "\n",
        "b.jsonl": "\n".join(json.dumps(text) for text in WORDS),
        "c.tsv": "".join(f"yes\t{text}\n" for text in WORDS),
        "d.txt": "\r\n".join(WORDS) + "\r\n",
        "e.csv": "text,more\r\n" + "".join(f'"{text}",1\r\n' for text in WORDS),
        "f.jsonl": "\n\n".join(json.dumps(text) for text in WORDS) + "\n\n \r\n",
        "g.tsv": "text\tlabel\n" + "".join(f"{text}\tyes\n" for text in WORDS) + "\n\n",
        "h.txt": "\n".join(WORDS) + "\n\n\n",
    }
    alone = [answer("--text", text)[0] for text in WORDS]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content.encode())
        found = answer("--input", tmp_path / name)
        assert [line["tokens"] for line in found] == [line["tokens"] for line in alone]
        assert [line["logits"] for line in found] == [pytest.approx(line["logits"], abs=1e-5) for line in alone]
    table = pyarrow.Table.from_pylist([{"text": text, "id": 1} for text in WORDS])
    pyarrow.parquet.write_table(table, tmp_path / "i.parquet")
    assert answer("--input", tmp_path / "i.parquet") == found
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(contents["d.txt"].encode())))
    assert len(answer("--input", "-", "--format", "text")) == 3


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", b'"w7 w8"\n"w9"\n'), ("a.tsv", b"0\tw7 w8\n0\tw9\n"), ("a.txt", b"w7 w8\nw9\n")]
)
def test_a_byte_order_mark_is_no_part_of_the_first_text(answer, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(codecs.BOM_UTF8 + content)
    alone = [answer("--text", text)[0] for text in ("w7 w8", "w9")]
    found = answer("--input", tmp_path / name)
    assert [line["logits"] for line in found] == [pytest.approx(line["logits"], abs=1e-5) for line in alone]


def test_pairs_in_files(answer, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "w7", "text_b": "w8 w9"}\n{"text": "w7", "text_b": null}\n"w7"\n{"text": "w7", "text_b": ""}\n'
    )
    (tmp_path / "a.tsv").write_text("0\tw7\tw8 w9\n0\tw7\n0\tw7\n0\tw7\t\n")
    for name in ("a.jsonl", "a.tsv"):
        assert [line["tokens"] for line in answer("--input", tmp_path / name)] == [6, 3, 3, 3], "none is no second text"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", b'"w7"\n{"text": \n', "line 2: expected JSON"),
        ("a.jsonl", b'"w7"\n\noops\n', "line 3: expected JSON, found 'oops'"),
        ("a.jsonl", b'"\\ud83d"\n', "line 1: expected valid Unicode, found an unpaired surrogate"),
        ("a.jsonl", b'"w7"\n' + b"[" * 100_000, "line 2: expected JSON"),
        ("a.jsonl", b'{"label": "x"}\n', "line 1: expected {"),
        ("a.jsonl", b'{"text": "w7", "text_b": 3}\n', "line 1: expected a second text or none in text_b, found 3"),
        ("a.tsv", b"w7\n", "line 1: expected label<TAB>text"),
        ("a.tsv", b"0\tw7\tw8\tw9\n", "found 4 column"),
        ("a.txt", b"w7\n\xff\n", "line 2: expected UTF-8 text, found 'utf-8' codec"),
        ("a.txt", b"w7\n\nw8\n", "line 2: expected at least one word"),
        ("a.txt", b"w7\n" + b"w8 " * 40, "text 2: 42 tokens, the model takes 24"),
        ("a.txt", b"", "expected at least one line"),
        ("a.xml", b"w7\n", "expected .jsonl, .json, .tsv, .csv, .txt, .parquet, .conll, .bio or --format, found .xml"),
        ("a.csv", b"w7\n", "line 1: expected a column text, found the header w7"),
        ("a.csv", b'text\n"w7\nw8\n', "line 2: a quote that is opened here is never closed"),
        ("a.txt", b"w7 " * 2**23, "line 1: expected at most 16777216 bytes"),
        ("a.txt", b"\n \r\n\n", "expected at least one line"),
        ("a", b"w7\n", "found no ending"),
    ],
)
def test_what_is_wrong_with_an_input_is_named_by_line(
    answer, tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        answer("--input", tmp_path / name)
    assert problem in str(caught.value)


def test_truncation_is_done_when_asked_for(answer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w8 " * 40)
    assert answer("--input", tmp_path / "a.txt", "--truncate")[0]["tokens"] == 24


@pytest.mark.parametrize("arguments", [("--text-b", "w8", "--input", "x.txt"), ("--input", "none.jsonl")])
def test_unusable_arguments(answer, arguments) -> None:
    with pytest.raises(InputError, match=arguments[0]):
        answer(*arguments)


@pytest.mark.parametrize(
    ("flag", "arguments"), [("--batch", ("--text", "w7", "--batch", "0")), ("--truncate", ("--text", "w8 " * 40))]
)
def test_an_error_of_the_runner_names_the_flag(answer, flag: str, arguments: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=flag):
        answer(*arguments)


def test_an_output_file_holds_every_answer_or_stays_as_it_was(answer, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    (tmp_path / "good.txt").write_text("\n".join(WORDS))
    (tmp_path / "bad.txt").write_text("w7\n\nw8\n")
    assert answer("--input", tmp_path / "good.txt", "--output", output) == []
    before = output.read_text()
    assert len(before.splitlines()) == 3
    with pytest.raises(InputError):
        answer("--input", tmp_path / "bad.txt", "--output", output)
    assert output.read_text() == before
    assert {path.name for path in tmp_path.iterdir()} == {"good.txt", "bad.txt", "out.jsonl"}
    with pytest.raises(InputError, match="--output"):
        answer("--text", "w7", "--output", tmp_path / "none" / "out.jsonl")


def test_answers_do_not_replace_the_texts(answer, tmp_path: Path) -> None:
    texts, link = tmp_path / "texts.txt", tmp_path / "link"
    texts.write_text("\n".join(WORDS))
    link.symlink_to(texts)
    for output in (texts, link):
        with pytest.raises(InputError, match="it is the --input, whose texts are kept; name another file"):
            answer("--input", texts, "--output", output)
    assert texts.read_text().splitlines() == WORDS


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--text", "w7"], 0, ""),
        (["--text", ""], 2, "error: text 1: expected at least one word"),
        ([], 2, "one of the arguments --text --input is required"),
        (["--text", "w7", "--provider", "abacus"], 2, "error: provider 'abacus'"),
    ],
)
def test_exit_codes(artifact: Path, arguments: list[str], code: int, message: str) -> None:
    command = [sys.executable, "-m", "pipeline.run", str(artifact), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code and message in done.stderr and "Traceback" not in done.stderr


def test_a_closed_pipe_ends_quietly(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w7 w8\n" * 5000)
    command = f"{sys.executable} -m pipeline.run {artifact} --input {tmp_path / 'a.txt'} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1 and "Traceback" not in done.stderr


MEASURE = """
import resource, sys
from pipeline import run
run.run(run.parser().parse_args(sys.argv[1:]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_ten_thousand_lines_in_order_in_the_memory_of_a_thousand(artifact: Path, tmp_path: Path) -> None:
    peaks = {}
    for count in (1_000, 10_000):
        source, output = tmp_path / f"{count}.txt", tmp_path / f"{count}.jsonl"
        lengths = [1 + (number * 7) % 21 for number in range(count)]
        source.write_text("".join(" ".join(f"w{4 + i}" for i in range(n)) + "\n" for n in lengths))
        command = [sys.executable, "-c", MEASURE, str(artifact), "--input", str(source), "--output", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[count] = int(done.stdout)
        assert [json.loads(line)["tokens"] - 2 for line in output.read_text().splitlines()] == lengths
    assert peaks[10_000] <= 1.5 * peaks[1_000], peaks


def test_an_output_that_is_no_file_stays_what_it_is(artifact: Path, tmp_path: Path) -> None:
    """A pipe or a device is written to, and so is what a link points to."""
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    link.symlink_to(target)
    command = [sys.executable, "-m", "pipeline.run", str(artifact), "--text", "w7", "--output"]
    with subprocess.Popen([*command, str(pipe)]) as running:
        piped = pipe.read_text()
    assert running.returncode == 0 and pipe.is_fifo()
    subprocess.run([*command, str(link)], check=True)
    assert link.is_symlink() and target.read_text() == piped != ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a disk that is always full")
@pytest.mark.parametrize(
    ("to", "message"), [("/dev/full", "cannot be written: No space left"), ("&-", "found it closed")]
)
def test_a_standard_output_that_takes_nothing_is_an_error(artifact: Path, to: str, message: str) -> None:
    for verb in (f"run {artifact} --text w7", f"inspect {artifact}"):
        command = f"{sys.executable} -m pipeline.{verb} >{to}"
        done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 2 and "error: standard output: " in done.stderr and message in done.stderr
        assert "Traceback" not in done.stderr


def test_answers_in_a_file_need_no_standard_output(artifact: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m pipeline.run {artifact} --text w7 --output {tmp_path / 'out'} >&-"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out").read_text())["tokens"] == 3


def test_a_standard_input_that_is_closed_is_an_error(artifact: Path) -> None:
    command = f"{sys.executable} -m pipeline.run {artifact} --input - --format text <&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "error: standard input: expected it to be open" in done.stderr
    assert "Traceback" not in done.stderr
