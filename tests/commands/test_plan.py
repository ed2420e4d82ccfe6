"""What a sweep would do, said without doing it."""

from __future__ import annotations

import pytest
from swept_folder import QUIET, all_files, forget, run


@pytest.fixture
def here(swept_here):
    return swept_here


@pytest.mark.slow
@pytest.mark.parametrize("flag", [[], ["-m"], ["--multirun"]])
def test_plan_writes_nothing(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "plan", *flag, "seed=0,1,2", "features=4,8", "sweep=new", *QUIET)
    typed = "sweep=new tracking=disabled timing=quick timing.rounds=2"
    assert (code, err) == (0, "")
    assert out == (
        "new: 6 runs · 2 programs\n"
        "  folder      outputs/new\n"
        f"  program     3 runs, 3 to do: linear on x float32[4], cpu  features=4 {typed}\n"
        f"  program     3 runs, 3 to do: linear on x float32[4], cpu  features=8 {typed}\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_plan_counts_done_and_new_runs(here, capsys):
    forget("fine", 1)
    before = all_files()
    code, out, _ = run(capsys, "plan", "seed=0,1", "features=4,8", "sweep=fine", *QUIET)
    assert (code, out.splitlines()[0]) == (0, "fine: 4 runs · 2 programs · 3 done, 1 new · 1 to do")
    assert "  program     2 runs, 0 to do: linear on x float32[4], cpu  features=4 " in out
    assert "  program     2 runs, 1 to do: linear on x float32[4], cpu  features=8 " in out
    assert all_files() == before


@pytest.mark.slow
def test_plan_lists_at_most_twenty_programs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, out, _ = run(capsys, "plan", "features=range(1,24)", *QUIET)
    assert out.count("  program     1 runs, 1 to do") == 20
    assert out.endswith("  … and 3 more programs\n")
