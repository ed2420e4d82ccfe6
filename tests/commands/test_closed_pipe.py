"""A reader that goes away, as `| head -1` does: what was asked for is done, and its exit code is the documented one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from started_processes import Started

from runner.commands import main

COMMAND = (sys.executable, "-c", "from runner.commands import main; main.entry()")
QUIET = ("timing=off", "checks=off", "tracking=disabled", "checkpoint=none")


def unread(*words: str, errors: bool = False) -> tuple[int, str]:
    """The exit code and errors of a command whose output is not read; with `errors`, nor those."""
    reader, writer = os.pipe()
    os.close(reader)
    other = writer if errors else subprocess.PIPE
    process: Started[str] = Started([*COMMAND, *words], stdout=writer, stderr=other, text=True)
    os.close(writer)
    _, said = process.communicate(timeout=120)
    return process.returncode, said or ""


@pytest.mark.slow
def test_an_unread_sweep_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert unread("-m", "seed=0,1", "sweep=s", *QUIET) == (0, "")
    assert len(list(Path("outputs/s/runs").iterdir())) == 2 and Path("outputs/s/results.parquet").exists()
    assert unread("resume", "outputs/s") == (0, "")
    assert unread("resume", "outputs/s", errors=True) == (0, "")
    (record,) = Path("outputs/s/runs").glob("0-*/record.json")
    record.write_bytes(record.read_bytes().replace(b"linear", b"lineaR"))
    assert unread("verify", "outputs/s", errors=True)[0] == 4


@pytest.mark.parametrize(
    ("words", "code"), [(["help"], 0), (["--version"], 0), (["completion", "bash"], 0), (["ls", "nowhere"], 2)]
)
def test_unread_words_end_quietly(words, code):
    assert unread(*words, errors=code != 0) == (code, "")


def test_no_escape_is_offered_or_helped_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("fine", "a\x1b[31mb"):
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        (folder / "sweep.json").write_text("{}")
    assert main.main(["__complete", "--", "ls", "outputs/"]) == 0
    assert capsys.readouterr().out == "outputs/fine\n"
    for words in (["--version"], ["help"], ["help", "ls"], ["help", "a\x1b[31mb"]):
        main.main(words)
        said = capsys.readouterr()
        assert "\x1b" not in said.out + said.err
