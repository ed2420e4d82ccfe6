"""What is there: ls of sweeps and runs, and what verbs that look at them refuse."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from started_processes import Started
from swept_folder import all_files, forget, run, run_folder

from runner.records import find
from runner.records.paths import SweepFolder


@pytest.fixture
def here(swept_here):
    return swept_here


@pytest.mark.parametrize("words", [["ls"], ["ls", "outputs"]])
def test_ls_counts_runs_per_sweep(words, here, capsys):
    forget("fine", 2)
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    heading, _, *lines = out.splitlines()
    assert heading.split() == ["sweep", "runs", "done", "failed", "missing", "written"]
    assert [line.split()[:5] for line in lines] == [
        ["outputs/fine", "4", "3", "0", "1"],
        ["outputs/mixed", "2", "1", "1", "0"],
    ]


def test_ls_json_lists_the_sweeps(here, capsys):
    code, out, _ = run(capsys, "ls", "--json")
    fine, mixed = json.loads(out)
    assert code == 0
    assert (fine["sweep"], fine["runs"], fine["done"], fine["missing"]) == ("outputs/fine", 4, 4, 0)
    assert (mixed["sweep"], mixed["done"], mixed["failed"]) == ("outputs/mixed", 1, 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", fine["written"])


def test_ls_lists_the_runs_of_sweeps(here, capsys):
    code, out, _ = run(capsys, "ls", "outputs/fine")
    head, columns, _, *lines = out.splitlines()
    assert (code, head) == (0, "fine: 4 done")
    assert columns.split() == ["run", "seed", "features", "output", "norm", "apply", "saved", "status"]
    assert [line.split()[0] for line in lines[:4]] == [run_folder("fine", num).name for num in range(4)]
    assert [line.split()[1:3] for line in lines[:4]] == [["0", "4"], ["0", "8"], ["1", "4"], ["1", "8"]]
    assert [line.split()[-1] for line in lines[:4]] == ["done"] * 4


def test_ls_counts_failed_and_missing_runs(here, capsys):
    forget("mixed", 1)
    code, out, _ = run(capsys, "ls", "outputs/mixed")
    assert (code, out.splitlines()[0]) == (0, "mixed: 1 failed, 1 missing")


def test_ls_json_has_every_run(here, capsys):
    forget("fine", 3)
    _, out, _ = run(capsys, "ls", "--json", "outputs/fine")
    rows = json.loads(out)
    assert [(row["num"], row["status"]) for row in rows] == [(0, "done"), (1, "done"), (2, "done"), (3, "missing")]
    record = json.loads((run_folder("fine", 0) / "record.json").read_text())
    assert rows[0]["run_id"] == record["run_id"]
    assert rows[0]["settings"] == record["settings"]
    assert rows[0]["output_norm"] == record["output"][0]["norm"]
    assert rows[0]["apply_s"] == record["timing"]["apply_latency"]["summary"]["median_s"]
    assert rows[0]["checkpoint_bytes"] == record["checkpoint"]["num_bytes"]


def test_ls_takes_paths_to_sweeps(here, monkeypatch, capsys):
    monkeypatch.chdir("/")
    code, out, _ = run(capsys, "ls", str(here / "outputs" / "fine"))
    assert (code, out.splitlines()[0]) == (0, "fine: 4 done")


def test_ls_by_groups_seeds(here, capsys):
    code, out, err = run(capsys, "ls", "outputs/fine", "--by", "features")
    head, titles, _, *lines = out.splitlines()
    assert (code, err, head) == (0, "", "fine: 4 done")
    assert re.split(r" {2,}", titles.strip()) == ["features", "runs", "output norm", "apply"]
    norms = [f"{np.linalg.norm(np.load(run_folder('fine', num) / 'output.npy')):.6g}" for num in range(4)]
    for line, features, both in zip(lines[:2], ("4", "8"), ((0, 2), (1, 3)), strict=True):
        median = sum(float(norms[num]) for num in both) / 2
        values, runs, norm, apply = re.split(r" {2,}", line.strip())
        assert (values, runs, norm.split()[1:]) == (features, "2", ["n", "2"])
        assert float(norm.split()[0]) == pytest.approx(median, rel=1e-5)
        assert re.fullmatch(r"~[\d.]+ [mµ]s n 2", apply)
    assert lines[2] == "median over the runs (99 % interval, which takes 8)"
    assert lines[3].startswith("~ read with care: ")


def test_ls_by_names_other_varying_keys(here, capsys):
    _, out, _ = run(capsys, "ls", "outputs/fine", "--by", "seed")
    assert out.endswith("\nruns of several features are taken together: --by seed,features\n")
    _, out, _ = run(capsys, "ls", "outputs/mixed", "--by", "layer,layer.kwargs.when")
    rows = [re.split(r" {2,}", line.strip()) for line in out.splitlines()]
    assert rows[1] == ["layer", "layer.kwargs.when", "runs", "failed", "output norm", "apply"]
    assert rows[3] == ["Fails", "broken", "0", "1", "–", "–"]


def test_ls_by_json_has_the_statistics(here, capsys):
    _, out, _ = run(capsys, "ls", "outputs/fine", "--by", "features", "--json")
    first, _ = json.loads(out)
    assert (first["values"], first["num_runs"], first["apply_s"]["num"]) == ({"features": "4"}, 2, 2)
    assert (first["apply_s"]["low"], first["flags"]["short"]) == (None, 2)


def test_tables_stay_within_80_columns(here, capsys):
    shutil.copytree("outputs/fine", f"outputs/{'long' * 25}")
    _, sweeps, _ = run(capsys, "ls")
    assert sweeps.count("long") >= 20  # folded, not cut
    _, runs, _ = run(capsys, "ls", "outputs/mixed")
    table = [line for line in (sweeps + runs).splitlines() if not line.startswith("~")]
    assert max(map(len, table)) <= 80


MISTAKES = [
    ("ls nowhere", "nowhere holds no sweep.\n  Try: bridge-runner -m seed=0,1,2, or bridge-runner ls FOLDER"),
    ("ls a b", "ls: 2 paths were typed and 1 wanted.\n  Try: bridge-runner ls a"),
    ("ls --all", "ls: unrecognized arguments: --all.{ls}"),
    ("ls --watch", "ls: --watch follows one sweep.{ls}"),
    ("ls --by seed", "ls --by seed: outputs is no sweep.\n  Try: bridge-runner ls SWEEP --by KEY"),
    ("ls outputs/fine --by feature", "feature: the runs have no such key.\n  Try: features"),
    (
        "show",
        "show: the following arguments are required: run.{show}",
    ),
    (
        "show --json",
        "show: the following arguments are required: run.{show}",
    ),
    ("show a b", "show: 2 paths were typed and 1 wanted.\n  Try: bridge-runner show a"),
    ("show nowhere", "nowhere is no run: it has no record.json.\n  Try: bridge-runner ls SWEEP"),
    (
        "show outputs/fine/9",
        "outputs/fine/9 is no run: it has no record.json.\n  Try: bridge-runner show outputs/fine/0",
    ),
    (
        "show outputs/fine",
        "outputs/fine: 4 runs are there, one is wanted.\n  Try: bridge-runner show outputs/fine/runs/{first}",
    ),
    (
        "rerun",
        "rerun: the following arguments are required: run.{rerun}",
    ),
    (
        "rerun a --json",
        "rerun: unrecognized arguments: --json.{rerun}",
    ),
    ("rerun nowhere", "nowhere is no run: it has no record.json.\n  Try: bridge-runner ls SWEEP"),
    (
        "resume",
        "resume: the following arguments are required: sweep.{resume}",
    ),
    (
        "resume outputs/fine -m",
        "resume: unrecognized arguments: -m.{resume}",
    ),
    ("resume outputs/fin", "outputs/fin is no sweep: it has no sweep.json.\n  Try: bridge-runner resume outputs/fine"),
    ("resume nowhere", "nowhere is no sweep: it has no sweep.json."),
    ("resume outputs/fine seed=5", "{here}/outputs/fine holds another plan: 4 runs, 0 of them among these 2.{other}"),
    ("resume outputs/fine seed=0,7", "{here}/outputs/fine holds another plan: 4 runs, 2 of them among these 4.{other}"),
    ("resume outputs/fine sed=5", "sed=5: no such key.\n  Try: seed=5"),
    ("plan seed=-1", "seed=-1: a seed is a whole number from 0 to 4294967295.\n  Try: seed=0"),
    ("plan sed=0", "sed=0: no such key.\n  Try: seed=0"),
]


@pytest.mark.sampled
@pytest.mark.parametrize(("typed", "said"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_mistakes_exit_with_2_changing_nothing(typed, said, here, capsys):
    before = all_files()
    values = {"here": here, "first": run_folder("fine", 0).name, "other": "\n  Try: -m with sweep=another_name"}
    values["ls"] = "\n  Try: bridge-runner ls [outputs/SWEEP] [--by features] [--json] [--watch]"
    values["show"] = "\n  Try: bridge-runner show outputs/SWEEP/runs/RUN [--json]"
    values["rerun"] = "\n  Try: bridge-runner rerun outputs/SWEEP/runs/RUN [--trust]"
    values["resume"] = "\n  Try: bridge-runner resume outputs/SWEEP [failure.retry=all] [--verify] [--trust]"
    assert run(capsys, *typed.split()) == (2, "", f"error: {said.format(**values)}\n")
    assert all_files() == before


def test_empty_folders_suggest_how_to_begin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = "error: outputs holds no sweep.\n  Try: bridge-runner -m seed=0,1,2, or bridge-runner ls FOLDER\n"
    assert run(capsys, "ls") == (2, "", said)


def test_a_damaged_plan_is_said(here, capsys):
    SweepFolder(Path("outputs/fine")).plan.write_text("{")
    code, out, err = run(capsys, "ls")
    assert code == 2
    assert err.startswith("error: outputs/fine/sweep.json is damaged: Expecting property name")
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["outputs/mixed"]
    mixed, fine = json.loads(run(capsys, "ls", "--json")[1])
    assert (mixed["sweep"], mixed["done"], fine["sweep"]) == ("outputs/mixed", 1, "outputs/fine")
    assert fine["error"].startswith("outputs/fine/sweep.json is damaged: ")


def flip(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def test_ls_shows_no_flipped_digits(here, capsys):
    folder = SweepFolder(Path("outputs/fine"))
    flip(folder.journal, b'"apply_s":', b'"apply_s":1')
    code, out, err = run(capsys, "ls", "outputs/fine")
    assert (code, out, "journal.jsonl line" in err and "is damaged" in err) == (2, "", True)


def test_ls_names_damaged_and_deleted_runs(here, capsys):
    flip(run_folder("fine", 1) / "record.json", b'"wall_s": ', b'"wall_s": 1')
    shutil.rmtree(run_folder("fine", 3))
    _, out, _ = run(capsys, "ls", "outputs/fine")
    assert out.startswith("fine: 2 done, 1 damaged, 1 missing\n")
    assert out.endswith(
        "records that are not what was written: 1; `bridge-runner resume outputs/fine` does them again\n"
    )
    _, out, _ = run(capsys, "ls", "--json")
    (fine,) = (line for line in json.loads(out) if line["sweep"] == "outputs/fine")
    assert (fine["done"], fine["missing"]) == (3, 1)
    assert run(capsys, "resume", "outputs/fine")[0] == 0
    assert run(capsys, "ls", "outputs/fine")[1].startswith("fine: 4 done\n")


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "others"),
    [
        ("ls", {"numpy"}),
        ("ls outputs/fine", {"numpy"}),
        ("ls outputs/fine --by features", set()),
        ("compare outputs/fine outputs/fine", set()),
        ("show outputs/fine/0", set()),
        ("--help", {"numpy"}),
        ("--version", {"numpy"}),
    ],
)
def test_read_only_verbs_import_no_jax(words, others, here):
    command = [sys.executable, "-X", "importtime", "-m", "runner", *words.split()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert "runner.commands.main" in imported
    assert imported.isdisjoint({"jax", "flax", "orbax", "wandb", *others})


def test_every_listed_sweep_can_be_read(here):
    sweeps = find.find_sweeps(Path("outputs"))
    assert [sweep.name for sweep in sweeps] == ["fine", "mixed"]
    assert [len(find.read_rows(sweep)) for sweep in sweeps] == [4, 2]


@pytest.mark.slow
def test_sweeps_can_be_followed_live(tmp_path):
    command = [sys.executable, "-m", "runner"]
    words = ["-m", "seed=range(0,60)", "sweep=followed", "tracking=disabled", "timing=off"]
    sweep = Started([*command, *words], cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "outputs" / "followed" / "journal.jsonl").exists():
        time.sleep(0.02)
    watch = [*command, "ls", "outputs/followed", "--watch"]
    done = subprocess.run(watch, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60)
    assert sweep.wait(timeout=60) == 0
    assert "followed: 60 done" in done.stdout
