"""What holds of every verb: exit codes, one line for what nobody foresaw, signals, pipes, and terminals of any kind."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from engines.head import HeadKind
from engines.manifest import Gate
from pipeline import run as run_verb
from pipeline.builder.next_step import run_command
from pipeline.cli import OF_EVERY_VERB, main_of, plain_table, print_gates, printable
from tests.engines.toy import Toy

LABELS = ("großartig \U0001f600", "\x1b[31m赤")


class Panic(BaseException):
    """As libraries in Rust raise it."""


@pytest.mark.parametrize(
    "error",
    [KeyError("no such\nkey \x1b[2J"), RecursionError(), MemoryError(), RuntimeError("bad"), Panic("at the disco")],
)
def test_what_nobody_foresaw_is_one_line_and_a_log(error, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["verb"])

    def run(args: argparse.Namespace) -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        main_of(lambda: argparse.ArgumentParser(), run)
    printed = capsys.readouterr()
    (log,) = tmp_path.glob("skimrt-*.log")
    assert ended.value.code == 70 and printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ") and type(error).__name__ in line and str(log) in line and "\x1b" not in line
    assert ("this machine's memory is not enough" in line) == isinstance(error, MemoryError)
    assert "Traceback" in log.read_text() and log.stat().st_mode & 0o077 == 0


def test_every_help_tells_the_exit_codes(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["verb", "--help"])
    with pytest.raises(SystemExit) as ended:
        main_of(lambda: argparse.ArgumentParser(epilog="exit codes: 0 done"), lambda args: 0)
    shown = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and "exit codes: 0 done" in shown and OF_EVERY_VERB in shown


@given(st.text())
def test_no_text_moves_the_cursor_or_ends_the_line_early(text: str) -> None:
    shown = printable(text)
    assert all(c.isprintable() or c.isspace() or ord(c) > 0x9F for c in shown)
    assert not set(shown) & {"\x1b", "\r", "\x85", "\u2028", "\u202e", "\x9b"}
    shown.encode()


def test_what_others_have_written_is_shown_and_not_obeyed(capsys) -> None:
    console = Console(file=sys.stdout, width=200)
    table = plain_table("\x1b]0;title\x07", "a")
    table.add_row("\x1b[31mred")
    console.print(table)
    print_gates([Gate(name="\x1b[2Jgate", status="PASSED", reason="\x9b2J")], console)
    found = capsys.readouterr().out
    assert "\x1b" not in found and "\x9b" not in found and r"\x1b[31mred" in found and r"\x1b[2Jgate" in found


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    return Toy(labels=LABELS).write(tmp_path_factory.mktemp("cli") / "artifact", tiny_tokenizer)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp932"])
def test_a_terminal_of_any_encoding_shows_any_label(artifact: Path, encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for verb in (["run", str(artifact), "--text", "w7 w8"], ["inspect", str(artifact)]):
        done = subprocess.run(
            [sys.executable, "-m", f"pipeline.{verb[0]}", *verb[1:]], env=environment, capture_output=True
        )
        assert done.returncode == 0 and b"\x1b" not in done.stdout, done.stderr
        if verb[0] == "run":
            import json

            assert (
                json.loads(done.stdout.decode(encoding))["label"]
                in Toy(labels=("großartig \U0001f600", "\x1b[31m赤")).names
            )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_verb_that_is_ended_puts_away_what_it_began(artifact: Path, tmp_path: Path, number: int, code: int) -> None:
    reader, writer = os.pipe()
    command = ["-m", "pipeline.run", str(artifact), "--input", "-", "--format", "text", "--output", str(tmp_path / "o")]
    with subprocess.Popen(
        [sys.executable, *command],
        stdin=reader,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # whoever runs the tests may ignore it, as nohup does
    ) as running:
        os.close(reader)
        os.write(writer, b"w7 w8\n" * 3)  # and no end: it waits for more
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".*.partial")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(tmp_path.glob(".*.partial")), "it writes aside"
        running.send_signal(number)
        try:
            said = running.communicate(timeout=60)[1]
        finally:
            running.kill()
    os.close(writer)
    assert running.returncode == code and "Traceback" not in said, said
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_is_told_by_the_exit_code(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w7 w8\n" * 5000)
    command = (
        f"{sys.executable} -m pipeline.run {artifact} --input {tmp_path / 'a.txt'} | head -n 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 141 and done.stderr == "" and len(done.stdout.splitlines()) == 1


def test_signals_that_the_caller_ignores_stay_ignored(monkeypatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(sys, "argv", ["verb"])
        seen = SimpleNamespace()

        def run(args: argparse.Namespace) -> int:
            seen.hangup, seen.end = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGTERM)
            return 0

        with pytest.raises(SystemExit):
            main_of(lambda: argparse.ArgumentParser(), run)
        assert seen.hangup == signal.SIG_IGN and seen.end != signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_the_command_to_run_next_asks_what_the_head_answers(kind: HeadKind) -> None:
    python, flag, module, *words = shlex.split(run_command(Path("my artifact"), kind))
    assert (python, flag, module) == (Path(sys.executable).name, "-m", "pipeline.run")
    args = run_verb.parser().parse_args(words)
    assert args.artifact == Path("my artifact") and args.text
    assert (args.text_b is not None) == (kind in ("ranking", "question_answering"))
