"""The command line in this process."""

from __future__ import annotations

from runner.commands import main


def run(capsys, *words: object) -> tuple[int, str, str]:
    """The exit code of a command, and what it wrote to stdout and stderr."""
    code = main.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
