"""What a terminal would obey is shown, not done."""

from __future__ import annotations

import pytest

from runner.commands import main
from runner.errors import visible
from runner.report.terminal import Terminal

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\rb\x9b31m\u202e"
SHOWN = "a\\x1b]0;owned\\x07\\x1b[2J\\rb\\x9b31m\\u202e"


def test_escapes_are_spelled_out():
    assert visible(HOSTILE) == SHOWN
    assert visible("naïve ✓\n\tnext 层") == "naïve ✓\n\tnext 层"


def test_lines_and_tables_show_escapes(capsys):
    terminal = Terminal()
    terminal.line(HOSTILE)
    terminal.warned(HOSTILE)
    terminal.plain_table([{"name": HOSTILE}])
    captured = capsys.readouterr()
    assert SHOWN in captured.out
    assert SHOWN in captured.err
    assert not set("\x1b\x07\r\x9b\u202e") & set(captured.out + captured.err)


@pytest.mark.parametrize("words", [["show", HOSTILE], ["ls", HOSTILE], ["verify", HOSTILE], [f"seed={HOSTILE}"]])
def test_errors_show_escapes(words, capsys):
    assert main.main(words) == 2
    error = capsys.readouterr().err
    assert "x1b]0;owned" in error
    assert not set("\x1b\x07\r\x9b\u202e") & set(error)
