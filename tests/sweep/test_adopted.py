"""A journal that is deleted or cut costs no run: what ended by its sealed record is kept; what is damaged, redone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runner.commands import main
from runner.records import find
from runner.records.paths import SweepFolder

LEAN = ("tracking=disabled", "timing=off", "checks=off")
SWEEP = ("-m", "seed=0,1,2", "sweep=s", *LEAN)
KEPT = "runs that no journal has, kept since their records are whole: {}\n"


def records(folder: SweepFolder) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder.path / "runs").rglob("record.json")}


def statuses(folder: SweepFolder) -> list[str]:
    return [row.status for row in find.read_rows(folder)]


def test_a_deleted_journal_costs_no_run(folder, capsys):
    before, rows = records(folder), find.read_rows(folder)
    folder.journal.unlink()
    assert main.main(["resume", "outputs/s"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("s: 3 runs · 1 program · 3 done · 0 to do\n")
    assert KEPT.format(3) in err
    assert (records(folder), find.read_rows(folder)) == (before, rows)


@pytest.mark.parametrize("share", [0.6])
def test_a_cut_journal_costs_no_run(share, folder, capsys):
    before, rows = records(folder), find.read_rows(folder)
    content = folder.journal.read_bytes()
    folder.journal.write_bytes(content[: int(share * len(content))])
    assert main.main(["resume", "outputs/s"]) == 0
    assert "3 done · 0 to do" in capsys.readouterr().out
    assert (records(folder), find.read_rows(folder)) == (before, rows)


@pytest.mark.slow
def test_a_removed_journal_line_costs_no_run(folder, capsys):
    before = records(folder)
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    at = next(index for index, line in enumerate(lines) if b'"event":"done"' in line)
    folder.journal.write_bytes(b"".join([*lines[:at], b"{}\n", *lines[at + 1 :]]))
    assert main.main(["resume", "outputs/s"]) == 2
    assert f"  Try: sed -i {at + 1}d {folder.journal}, then the same sweep again\n" in capsys.readouterr().err.replace(
        str(Path.cwd()) + "/", ""
    )
    folder.journal.write_bytes(b"".join([*lines[:at], *lines[at + 1 :]]))
    assert main.main(["resume", "outputs/s"]) == 0
    assert KEPT.format(1) in capsys.readouterr().err
    assert records(folder) == before


@pytest.mark.slow
def test_damaged_plans_are_rebuilt(folder, capsys):
    before = records(folder)
    content = folder.plan.read_bytes()
    folder.plan.write_bytes(content.replace(b'"seed": 2', b'"seed": 3', 1))
    assert main.main(SWEEP) == 2
    assert "is damaged: it is not what was written, by its digest" in capsys.readouterr().err
    folder.plan.unlink()
    assert main.main(SWEEP) == 0
    assert records(folder) == before
    assert json.loads(folder.plan.read_bytes())["runs"] == json.loads(content)["runs"]


def test_unjournaled_runs_with_damage_are_redone(folder, capsys):
    folder.journal.unlink()
    first, second, third = sorted((folder.path / "runs").iterdir())
    (first / "output.npy").write_bytes(b"other")
    (second / "record.json").write_bytes((third / "record.json").read_bytes())
    assert main.main(["resume", "outputs/s"]) == 0
    assert "1 done, 2 damaged · 2 to do" in capsys.readouterr().out
    names = sorted(path.name[2:] for path in (folder.path / "runs").iterdir())
    assert sum(name.endswith(".old-1") for name in names) == 2
    assert main.main(["verify", "outputs/s", "--no-code"]) == 0


def test_a_deleted_run_folder_is_redone(folder, capsys):
    shutil.rmtree(min((folder.path / "runs").iterdir()))
    assert main.main(["resume", "outputs/s"]) == 0
    assert "2 done, 1 interrupted · 1 to do" in capsys.readouterr().out
    assert len(records(folder)) == 3


# What `verify` finds, `resume --verify` does again.


def damage_output(run: Path) -> None:
    content = bytearray((run / "output.npy").read_bytes())
    content[-1] ^= 1
    (run / "output.npy").write_bytes(bytes(content))


def cut_checkpoint(run: Path) -> None:
    path = max((path for path in (run / "checkpoint").rglob("*") if path.is_file()), key=lambda one: one.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])


def lose_checkpoint(run: Path) -> None:
    shutil.rmtree(run / "checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [damage_output, cut_checkpoint, lose_checkpoint])
def test_resume_verify_redoes_damaged_runs(damage, folder, capsys):
    first = min((folder.path / "runs").iterdir())
    damage(first)
    assert main.main(["verify", "outputs/s", "--no-code"]) == 4
    said = "what is damaged or missing is done again by `bridge-runner resume outputs/s --verify`\n"
    assert capsys.readouterr().out.endswith(f"2 of 3 runs verified\n{said}")
    assert main.main(["resume", "outputs/s", "--verify"]) == 0
    assert "2 done, 1 damaged · 1 to do" in capsys.readouterr().out
    assert main.main(["verify", "outputs/s", "--no-code"]) == 0
    assert (folder.path / "runs" / f"{first.name}.old-1").is_dir()


@pytest.mark.slow
def test_resume_verify_leaves_whole_runs(folder, capsys):
    before = records(folder)
    assert main.main(["resume", "outputs/s", "--verify"]) == 0
    assert "3 done · 0 to do" in capsys.readouterr().out
    assert records(folder) == before


@pytest.mark.parametrize("path", ["outputs/s/0", "outputs/s/runs/{}"])
def test_verify_of_one_run_names_its_sweep(path, folder, capsys):
    first = min((folder.path / "runs").iterdir())
    damage_output(first)
    assert main.main(["verify", path.format(first.name), "--no-code"]) == 4
    assert capsys.readouterr().out.endswith("`bridge-runner resume outputs/s --verify`\n")
