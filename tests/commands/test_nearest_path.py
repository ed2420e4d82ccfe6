"""A path that leads nowhere: the message has the command with the nearest sweep or run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.commands import main
from runner.commands.typed.nearest_path import find


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two sweeps, `some` with two runs and `wide` with one, as the working directory."""
    for sweep, runs in {"some": ("0-aa", "1-bb"), "wide": ("0-cc",)}.items():
        for run in runs:
            (tmp_path / "outputs" / sweep / "runs" / run).mkdir(parents=True)
            (tmp_path / "outputs" / sweep / "runs" / run / "record.json").touch()
        (tmp_path / "outputs" / sweep / "sweep.json").write_text(json.dumps({}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "kind", "near"),
    [
        ("outputs/soma/0", "run", "outputs/some/0"),
        ("output/some/1", "run", "outputs/some/1"),
        ("outputs/some/7", "run", "outputs/some/0"),
        ("outputs/some/runs/1-bc", "run", "outputs/some/runs/1-bb"),
        ("outputs/some", "run", "outputs/some/runs/0-aa"),
        ("some/1", "run", "outputs/some/1"),
        ("outputs/s*/runs/*", "run", "outputs/some/runs/0-aa"),
        ("outputs/s*/1", "run", "outputs/some/runs/1-bb"),
        ("outputs/som*x/0", "run", "outputs/some/0"),
        ("outputs/wid", "sweep", "outputs/wide"),
        ("outputs/*", "sweep", "outputs/some"),
        ("wide", "either", "outputs/wide"),
        ("output", "sweeps", "outputs"),
        ("qqqq/0", "run", None),
        ("outputs/qqqq", "sweep", None),
    ],
)
def test_the_nearest_is_found(typed, kind, near, here):
    assert find(Path(typed), kind) == (Path(near) if near else None)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            "show outputs/s*/0",
            "outputs/s*/0 is no run: it has no record.json.\n  Try: bridge-runner show outputs/some/runs/0-aa",
        ),
        (
            "show outputs/soma/0",
            "outputs/soma/0 is no run: it has no record.json.\n  Try: bridge-runner show outputs/some/0",
        ),
        (
            "report outputs/wid",
            "outputs/wid is no sweep: it has no sweep.json.\n  Try: bridge-runner report outputs/wide",
        ),
        (
            "compare outputs/wid outputs/some",
            "outputs/wid is no run: it has no record.json.\n  Try: bridge-runner compare outputs/wide outputs/some",
        ),
        ("ls output", "output holds no sweep.\n  Try: bridge-runner ls outputs"),
        (
            "show outputs/some/0 outputs/some/1",
            "show: 2 paths were typed and 1 wanted.\n  Try: bridge-runner show outputs/some/0",
        ),
        (
            "compare outputs/some outputs/wide outputs/x",
            "compare: 3 paths were typed and 2 wanted.\n  Try: bridge-runner compare outputs/some outputs/wide",
        ),
    ],
)  # fmt: skip
def test_message_suggests_the_corrected_command(typed, said, here, capsys):
    assert main.main(typed.split()) == 2
    assert capsys.readouterr().err == f"error: {said}\n"
