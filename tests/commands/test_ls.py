"""What is there, and the same again: plan, ls, show, rerun and resume, after real sweeps."""

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
from failing_layers import LAYERS

from runner.commands import main
from runner.records import store
from runner.records.paths import SweepFolder
from runner.records.record import seal

QUIET = ("tracking=disabled", "timing=quick", "timing.rounds=2")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder with two sweeps: `fine` has four runs that are done, `mixed` one that is done and one that failed."""
    path = tmp_path_factory.mktemp("swept")
    (path / "listed_layers.py").write_text(LAYERS)
    (path / "broken").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.syspath_prepend(str(path))
        assert main.main(["-m", "seed=0,1", "features=4,8", "sweep=fine", *QUIET]) == 0
        layer = ["layer=custom", "layer.target=listed_layers.Fails", "layer.kwargs.when=broken,whole"]
        assert main.main(["-m", *layer, "sweep=mixed", *QUIET]) == 1
    return path


@pytest.fixture
def here(swept, tmp_path, monkeypatch):
    """A copy of it that a test may change, as the working directory."""
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    sys.modules.pop("listed_layers", None)
    return tmp_path


def run(capsys, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main.main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_folder(sweep: str, num: int) -> Path:
    (path,) = Path("outputs", sweep, "runs").glob(f"{num}-*")
    return path


def edit_record(folder: Path, change) -> None:
    record = json.loads((folder / "record.json").read_text())
    del record["digest"]
    change(record)
    (folder / "record.json").write_bytes(seal(json.dumps(record, indent=1).encode()))


def forget(sweep: str, num: int) -> None:
    """Removes a run and its line in the journal."""
    folder = SweepFolder(Path("outputs", sweep))
    shutil.rmtree(run_folder(sweep, num))
    lines = folder.journal.read_text().splitlines(keepends=True)
    folder.journal.write_text("".join(line for line in lines if json.loads(line).get("num") != num))


def all_files() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path().rglob("*")}


@pytest.mark.parametrize("words", [["ls"], ["ls", "outputs"]])
def test_ls_lists_the_sweeps_with_their_counts(words, here, capsys):
    forget("fine", 2)
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    heading, _, *lines = out.splitlines()
    assert heading.split() == ["sweep", "runs", "done", "failed", "missing", "written"]
    assert [line.split()[:5] for line in lines] == [
        ["outputs/fine", "4", "3", "0", "1"],
        ["outputs/mixed", "2", "1", "1", "0"],
    ]


def test_ls_json_has_the_sweeps_as_data(here, capsys):
    code, out, _ = run(capsys, "ls", "--json")
    fine, mixed = json.loads(out)
    assert code == 0
    assert (fine["sweep"], fine["runs"], fine["done"], fine["missing"]) == ("outputs/fine", 4, 4, 0)
    assert (mixed["sweep"], mixed["done"], mixed["failed"]) == ("outputs/mixed", 1, 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", fine["written"])


def test_ls_of_a_sweep_lists_its_runs(here, capsys):
    code, out, _ = run(capsys, "ls", "outputs/fine")
    head, columns, _, *lines = out.splitlines()
    assert (code, head) == (0, "fine: 4 done")
    assert columns.split() == ["run", "seed", "features", "output", "norm", "apply", "saved", "status"]
    assert [line.split()[0] for line in lines[:4]] == [run_folder("fine", num).name for num in range(4)]
    assert [line.split()[1:3] for line in lines[:4]] == [["0", "4"], ["0", "8"], ["1", "4"], ["1", "8"]]
    assert [line.split()[-1] for line in lines[:4]] == ["done"] * 4


def test_ls_of_a_sweep_says_what_failed_and_what_is_missing(here, capsys):
    forget("mixed", 1)
    code, out, _ = run(capsys, "ls", "outputs/mixed")
    assert (code, out.splitlines()[0]) == (0, "mixed: 1 failed, 1 missing")


def test_ls_json_of_a_sweep_has_a_row_for_every_run(here, capsys):
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


def test_a_sweep_of_another_folder_is_listed_by_its_path(here, monkeypatch, capsys):
    monkeypatch.chdir("/")
    code, out, _ = run(capsys, "ls", str(here / "outputs" / "fine"))
    assert (code, out.splitlines()[0]) == (0, "fine: 4 done")


def test_ls_by_a_key_puts_the_seeds_of_its_values_together(here, capsys):
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


def test_ls_by_says_what_else_it_puts_together_and_which_runs_failed(here, capsys):
    _, out, _ = run(capsys, "ls", "outputs/fine", "--by", "seed")
    assert out.endswith("\nruns of several features are taken together: --by seed,features\n")
    _, out, _ = run(capsys, "ls", "outputs/mixed", "--by", "layer,layer.kwargs.when")
    rows = [re.split(r" {2,}", line.strip()) for line in out.splitlines()]
    assert rows[1] == ["layer", "layer.kwargs.when", "runs", "failed", "output norm", "apply"]
    assert rows[3] == ["Fails", "broken", "0", "1", "–", "–"]


def test_ls_by_as_json_has_median_interval_number_and_flags(here, capsys):
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


@pytest.mark.parametrize("name", ["{run}", "{run}/", "{run}/record.json", "outputs/fine/2", "outputs/fine/{start}"])
def test_show_finds_a_run_by_folder_record_number_or_first_letters(name, here, capsys):
    folder = run_folder("fine", 2)
    code, out, err = run(capsys, "show", name.format(run=folder, start=folder.name[:5]))
    assert (code, err) == (0, "")
    assert out.startswith(f"{folder.name} of fine: done\n  {folder}\n")
    assert "\n  seed=1\n" in out
    assert "\n  layer.kwargs.out_features=4\n" in out
    assert re.search(r"\n  params/kernel  kernel    float32\[4,4\]  64     [0-9a-f]{12}\n", out)
    assert re.search(r"\n  apply_latency     [\d.]+ .?s, n 2  ~ ", out)
    assert "\n  yes     eager: init and apply give the same bits compiled and eager\n" in out or "skipped eager" in out
    assert out.endswith(f"\nagain: bridge-runner rerun {folder}\n")


def test_show_of_a_sweep_of_one_run_shows_it(here, capsys):
    forget("mixed", 0)
    code, out, _ = run(capsys, "show", "outputs/mixed")
    assert (code, out.splitlines()[0]) == (0, f"{run_folder('mixed', 1).name} of mixed: done")


def test_show_json_is_the_record_file(here, capsys):
    folder = run_folder("fine", 0)
    assert run(capsys, "show", str(folder), "--json") == (0, (folder / "record.json").read_text(), "")


def test_show_of_a_failed_run_has_its_traceback(here, capsys):
    code, out, _ = run(capsys, "show", "outputs/mixed/0")
    assert code == 0
    assert (
        "\nfailed: other: JaxRuntimeError: RuntimeError: the cable is out\nTraceback (most recent call last):\n" in out
    )
    assert "listed_layers.py" in out
    assert "in look\nRuntimeError: the cable is out\n\nagain: " in out


def test_show_has_the_clocks_of_the_cards_and_who_else_is_on_them(here, capsys):
    card = {"index": 0, "name": "NVIDIA H100", "clock_mhz": 1755, "max_clock_mhz": 1980, "memory_clock_mhz": 2619}
    card |= {"temperature_c": 41, "num_other_processes": 1}
    edit_record(run_folder("fine", 0), lambda record: record["timing"].update(cards=[card]))
    _, out, _ = run(capsys, "show", "outputs/fine/0")
    assert "  gpu 0             NVIDIA H100, 1755 of 1980 MHz, memory 2619 MHz, 41 °C, 1 other processes\n" in out


def test_show_cuts_long_values(here, capsys):
    folder = run_folder("fine", 0)
    edit_record(folder, lambda record: record["settings"]["tracking"].update(notes="x" * 500))
    _, out, _ = run(capsys, "show", str(folder))
    assert f"\n  tracking.notes={'x' * 99}…\n" in out


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


@pytest.mark.parametrize(("typed", "said"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_a_mistake_exits_with_2_says_what_to_type_and_changes_nothing(typed, said, here, capsys):
    before = all_files()
    values = {"here": here, "first": run_folder("fine", 0).name, "other": "\n  Try: -m with sweep=another_name"}
    values["ls"] = "\n  Try: bridge-runner ls [outputs/SWEEP] [--by features] [--json] [--watch]"
    values["show"] = "\n  Try: bridge-runner show outputs/SWEEP/runs/RUN [--json]"
    values["rerun"] = "\n  Try: bridge-runner rerun outputs/SWEEP/runs/RUN [--trust]"
    values["resume"] = "\n  Try: bridge-runner resume outputs/SWEEP [retry=all]"
    assert run(capsys, *typed.split()) == (2, "", f"error: {said.format(**values)}\n")
    assert all_files() == before


def test_ls_in_an_empty_folder_says_how_to_begin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = "error: outputs holds no sweep.\n  Try: bridge-runner -m seed=0,1,2, or bridge-runner ls FOLDER\n"
    assert run(capsys, "ls") == (2, "", said)


def test_rerun_says_that_the_bits_are_the_same_and_writes_nothing(here, capsys):
    before = all_files()
    folder = run_folder("fine", 3)
    assert run(capsys, "rerun", str(folder)) == (0, f"{folder.name}: the same bits (3 arrays compared)\n", "")
    assert all_files() == before


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (lambda record: record["variables"][1].update(digest="0" * 64), "variable params/kernel: other bits"),
        (lambda record: record["variables"].pop(0), "variable params/bias: in one of them only"),
        (lambda record: record["output"][0].update(digest="0" * 64), "output y: other bits"),
        (lambda record: record["output"].append(record["output"][0] | {"path": "more"}), "output more: "),
    ],
)
def test_rerun_names_the_array_that_has_other_bits(tamper, said, here, capsys):
    folder = run_folder("fine", 0)
    edit_record(folder, tamper)
    code, out, _ = run(capsys, "rerun", str(folder))
    assert code == 4
    assert out.startswith(f"  {said}")
    assert re.search(rf"\n{folder.name}: other bits \(\d arrays compared\)\n$", out)


def test_rerun_compares_with_the_saved_output(here, capsys):
    folder = run_folder("fine", 0)
    np.save(folder / "output.npy", np.load(folder / "output.npy") + 1)
    code, out, _ = run(capsys, "rerun", str(folder))
    assert (code, out.splitlines()[-1]) == (4, f"{folder.name}: other bits (3 arrays compared)")
    assert out.startswith("  output y: ")


def test_rerun_of_a_failed_run_that_goes_well_now_says_so(here, capsys):
    (here / "broken").unlink()
    code, out, _ = run(capsys, "rerun", "outputs/mixed/0", "--trust")
    assert code == 4
    assert out.startswith("  status: failed when saved, done now\n")


def test_rerun_of_a_run_that_fails_now_says_why(here, capsys):
    (here / "whole").touch()
    code, out, _ = run(capsys, "rerun", "outputs/mixed/1", "--trust")
    assert code == 4
    assert out.startswith("  status: done when saved, failed now: RuntimeError: the cable is out\n")


def test_rerun_of_a_run_whose_layer_is_gone_is_refused(here, capsys, monkeypatch):
    (here / "listed_layers.py").unlink()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "listed_layers.py").exists()])
    assert run(capsys, "rerun", "outputs/mixed/1", "--trust") == (
        2,
        "",
        "error: layer.target=listed_layers.Fails: there is no module listed_layers.\n"
        "  Try: run from the folder that holds the module, or install its package\n",
    )


def test_rerun_warns_where_the_layers_source_is_another(here):
    (here / "listed_layers.py").write_text(LAYERS.replace("y = self.linear(x)", "y = self.linear(x * 1)"))
    command = [sys.executable, "-m", "runner", "rerun", "outputs/mixed/1", "--trust"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{run_folder('mixed', 1).name}: the same bits (3 arrays compared)\n"
    assert done.stderr.startswith("the layer's source, the input file or a variable of the environment is another one ")


def test_resume_does_what_is_missing_and_only_that(here, capsys):
    before = json.loads((run_folder("fine", 2) / "record.json").read_text())
    forget("fine", 2)
    kept = all_files()
    code, out, _ = run(capsys, "resume", "outputs/fine")
    assert code == 0
    assert out.startswith("fine: 4 runs · 2 programs · 3 done, 1 new · 1 to do\n")
    assert "\n4 of 4 runs done\n" in out
    after = json.loads((run_folder("fine", 2) / "record.json").read_text())
    assert [leaf["digest"] for leaf in after["variables"]] == [leaf["digest"] for leaf in before["variables"]]
    records = [path for path in kept if path.name == "record.json"]
    assert {path: kept[path] for path in records} == {path: path.stat().st_mtime_ns for path in records}


def test_resume_works_from_another_folder(here, tmp_path_factory, monkeypatch, capsys):
    forget("fine", 0)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    code, out, _ = run(capsys, "resume", str(here / "outputs" / "fine"))
    assert (code, out.splitlines()[0]) == (0, "fine: 4 runs · 2 programs · 3 done, 1 new · 1 to do")
    assert list(Path().iterdir()) == []


def test_resume_does_failed_runs_again_and_takes_what_is_typed_beside(here, capsys):
    code, out, _ = run(capsys, "resume", "outputs/mixed", "retry=none")
    assert (code, out.splitlines()[0]) == (1, "mixed: 2 runs · 2 programs · 1 done, 1 failed · 0 to do")
    (here / "broken").unlink()
    code, out, _ = run(capsys, "resume", "outputs/mixed")
    assert (code, out.splitlines()[0]) == (0, "mixed: 2 runs · 2 programs · 1 done, 1 failed · 1 to do")


def test_resume_of_a_single_run_does_it_where_it_was(here, capsys):
    assert main.main(["seed=3", "sweep=alone", *QUIET]) == 0
    forget("alone", 0)
    code, out, _ = run(capsys, "resume", "outputs/alone")
    assert (code, out.splitlines()[0]) == (0, "alone: 1 run · 1 program")
    assert run_folder("alone", 0).is_dir()


def test_resume_of_a_folder_with_a_quote_in_its_name_works(here, capsys):
    (here / "it's").mkdir()
    shutil.copytree("outputs/fine", "it's/fine")
    code, out, err = run(capsys, "resume", "it's/fine")
    assert (code, err) == (0, "")
    assert out.startswith("fine: 4 runs · 2 programs · 4 done · 0 to do\n")


@pytest.mark.parametrize("flag", [[], ["-m"], ["--multirun"]])
def test_plan_says_what_a_sweep_would_do_and_writes_nothing(flag, tmp_path, monkeypatch, capsys):
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


def test_plan_counts_what_is_done_and_what_is_new(here, capsys):
    forget("fine", 1)
    before = all_files()
    code, out, _ = run(capsys, "plan", "seed=0,1", "features=4,8", "sweep=fine", *QUIET)
    assert (code, out.splitlines()[0]) == (0, "fine: 4 runs · 2 programs · 3 done, 1 new · 1 to do")
    assert "  program     2 runs, 0 to do: linear on x float32[4], cpu  features=4 " in out
    assert "  program     2 runs, 1 to do: linear on x float32[4], cpu  features=8 " in out
    assert all_files() == before


def test_plan_names_no_more_programs_than_one_can_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, out, _ = run(capsys, "plan", "features=range(1,24)", *QUIET)
    assert out.count("  program     1 runs, 1 to do") == 20
    assert out.endswith("  … and 3 more programs\n")


def test_a_damaged_plan_is_said(here, capsys):
    SweepFolder(Path("outputs/fine")).plan.write_text("{")
    code, _, err = run(capsys, "ls")
    assert code == 2
    assert err.startswith("error: outputs/fine/sweep.json is damaged: Expecting property name")


def test_a_damaged_record_is_said(here, capsys):
    record = run_folder("fine", 0) / "record.json"
    record.write_text(record.read_text()[:100])
    code, _, err = run(capsys, "show", str(record))
    assert code == 2
    assert err.startswith(f"error: {record} is damaged: ")


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
def test_what_only_reads_starts_without_jax_and_lists_without_numpy(words, others, here):
    command = [sys.executable, "-X", "importtime", "-m", "runner", *words.split()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert "runner.commands.main" in imported
    assert imported.isdisjoint({"jax", "flax", "orbax", "wandb", *others})


def test_every_sweep_that_is_listed_can_be_read(here):
    sweeps = store.find_sweeps(Path("outputs"))
    assert [sweep.name for sweep in sweeps] == ["fine", "mixed"]
    assert [len(store.read_rows(sweep)) for sweep in sweeps] == [4, 2]


def test_a_sweep_can_be_followed_from_another_terminal(tmp_path):
    command = [sys.executable, "-m", "runner"]
    words = ["-m", "seed=range(0,60)", "sweep=followed", "tracking=disabled", "timing=off"]
    sweep = subprocess.Popen([*command, *words], cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "outputs" / "followed" / "journal.jsonl").exists():
        time.sleep(0.02)
    watch = [*command, "ls", "outputs/followed", "--watch"]
    done = subprocess.run(watch, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60)
    assert sweep.wait(timeout=60) == 0
    assert "followed: 60 done" in done.stdout
