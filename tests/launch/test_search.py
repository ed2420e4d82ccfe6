"""Searches end to end, through the command: what is asked, run, told and kept, and how they go on."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from failing_layers import LAYERS

from runner.commands import main
from runner.config.enums import Direction
from runner.config.settings.sweep import SearchSettings
from runner.errors import ConfigError
from runner.launch import queue
from runner.launch.search import objective
from runner.launch.search.sampler import Sampler
from runner.launch.search.space import Axis
from runner.launch.search.study import Study
from runner.records import find, journal, store
from runner.records.journal import Journal
from runner.records.paths import RunFolder, SweepFolder
from runner.records.row import Trial, best_trial

LEAN = ("tracking=disabled", "timing=off", "checks=off", "checkpoint=none")
SEARCH = ("-m", "hydra/sweeper=optuna", *LEAN, "sweep=mine", "search.objective=output_norm")
# One program, so that a trial costs next to nothing.
SEEDS = (*SEARCH, "seed=int(interval(0,1000000))")
FEW = (*SEARCH, "seed=range(0,2)")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "my_layers.py").write_text(LAYERS)
    sys.modules.pop("my_layers", None)
    return tmp_path


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Two searches: `whole`, of six trials, and `part`, the same as it was when four of them had been told."""
    folder = tmp_path_factory.mktemp("searched")
    for name, n_trials in (("whole", 6), ("part", 4)):
        (folder / name).mkdir()
        with contextlib.chdir(folder / name):
            assert main.main([*SEEDS, f"search.n_trials={n_trials}", "search.n_jobs=2"]) == 0
    return {name: folder / name / "outputs" for name in ("whole", "part")}


@pytest.fixture
def done(searched, here):
    """The whole search."""
    shutil.copytree(searched["whole"], here / "outputs")
    return mine()


@pytest.fixture
def part(searched, here):
    """The part."""
    shutil.copytree(searched["part"], here / "outputs")
    return mine()


def mine() -> SweepFolder:
    return SweepFolder(Path("outputs") / "mine")


def told(folder: SweepFolder | None = None) -> list[tuple]:
    trials = find.read_trials(folder or mine())
    return [(trial.number, tuple(trial.overrides), trial.value, trial.run_id) for trial in trials]


def bits(path: Path):
    record = store.read_record(RunFolder(path))
    return [leaf.digest for leaf in record.variables], [array.digest for array in record.output]


def num_done() -> int:
    return sum(event["event"] == "done" for event in store.read_events(mine()))


def open_study(*axes: Axis):
    sampler = Sampler(target="optuna.samplers.TPESampler", arguments={"seed": 0})
    return contextlib.closing(Study(mine().study, axes, Direction.minimize, sampler))


SEED = Axis(key="seed", typed="", low=0, high=1000000, whole=True)


def test_searches_write_study_trials_and_sweep(done):
    assert [number for number, *_ in told()] == list(range(6))
    assert {path.name for path in done.path.iterdir()} >= {
        "study.db",
        "trials.jsonl",
        "results.parquet",
        "journal.jsonl",
    }
    for _, (typed,), value, run_id in told():
        (record,) = [
            one
            for path in (done.path / "runs").iterdir()
            if (one := store.read_record(RunFolder(path))).run_id == run_id
        ]
        assert typed == f"seed={record.settings['seed']}"
        assert value == record.output_norm


@pytest.mark.slow
def test_search_runs_equal_standalone_runs(done, capsys):
    for number, (typed,), *_ in told()[:3]:
        assert main.main([*LEAN, typed, "output_root=alone", f"sweep=run{number}"]) == 0
        (swept,) = done.path.glob(f"runs/{number}-*")
        (alone,) = Path("alone", f"run{number}", "runs").iterdir()
        assert bits(alone) == bits(swept)


@pytest.mark.slow
def test_resume_continues_to_the_last_target(done, capsys):
    assert main.main(["resume", str(done.path), "search.n_trials=7"]) == 0
    assert main.main(["resume", str(done.path)]) == 0
    assert "mine: minimize output_norm · 7 trials, 0 to come" in capsys.readouterr().out
    assert len(told()) == num_done() == 7
    command = store.read_plan(done)["origin"]["command"]
    assert sum(word.startswith("hydra.sweep.dir=") for word in command) == 1


@pytest.mark.slow
def test_killed_searches_continue_identically(searched, part):
    with open_study(SEED) as one:
        one.ask(4)
    assert main.main([*SEEDS, "search.n_trials=6", "search.n_jobs=2"]) == 0
    assert told() == told(SweepFolder(searched["whole"] / "mine"))
    assert num_done() == 6


@pytest.mark.slow
def test_finished_runs_are_recovered_without_rerun(searched, done):
    before = told()
    for name in ("study.db", "trials.jsonl"):
        shutil.copy(searched["part"] / "mine" / name, done.path / name)
    with open_study(SEED) as one:
        one.ask(4)
        one.ask(5)
    assert main.main([*SEEDS, "search.n_trials=6", "search.n_jobs=2"]) == 0
    assert told() == before
    assert num_done() == 6


def test_missing_trial_views_are_restored(done):
    lines = done.trials.read_text().splitlines(keepends=True)
    before = told()
    done.trials.write_text("".join(lines[:4]) + lines[4][:30])
    assert main.main([*SEEDS, "search.n_trials=6", "search.n_jobs=2"]) == 0
    assert told() == before


CHANGES = [
    (
        "update trial_values set value = 0.5 where trial_id = 3",
        "trial 2 has output_norm 0.5, and its line in trials.jsonl",
    ),
    ("update trial_params set param_value = 7 where trial_id = 3", "trial 2 has overrides ['seed=7'], and its line in"),
    ("update trials set number = 9 where number = 5", "the numbers of its trials have gaps"),
    (
        "update trial_user_attributes set value_json = replace(value_json, '1', '2') where trial_id = 3",
        "trial 2 has run ",
    ),
    ("update trials set state = 'CoMPLETE'", "LookupError on reading"),
    ("update study_user_attributes set value_json = '{'", "JSONDecodeError on reading"),
]


def change_study(statement: str) -> None:
    with contextlib.closing(sqlite3.connect(mine().study)) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "said"),
    [pytest.param(*CHANGES[0]), *(pytest.param(*one, marks=pytest.mark.slow) for one in CHANGES[1:])],
)
def test_changed_studies_are_refused(statement, said, done, capsys):
    change_study(statement)
    before = told()
    assert main.main(["resume", str(done.path), "search.n_trials=7"]) == 2
    assert f"study.db is damaged: {said}" in capsys.readouterr().err
    assert main.main(["ls", str(done.path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["trial"], row["objective"], row["run_id"]) for row in rows] == [(n, v, i) for n, _, v, i in before]


@pytest.mark.slow
def test_untold_changes_are_checked_by_records(done, capsys):
    done.trials.unlink()
    change_study(CHANGES[0][0])
    assert main.main(["resume", str(done.path)]) == 2
    assert "study.db is damaged: trial 2 has 0.5, and the record of its run " in capsys.readouterr().err
    assert all(value != 0.5 for _, _, value, _ in told())


@pytest.mark.slow
def test_deleted_studies_are_made_again(done, capsys):
    before = told()
    change_study(CHANGES[1][0])
    assert main.main(["resume", str(done.path)]) == 2
    assert f"Try: rm {done.study}, then the same search again: its runs are kept" in capsys.readouterr().err.replace(
        str(done.study.absolute()), str(done.study)
    )
    done.study.unlink()
    assert main.main(["resume", str(done.path)]) == 0
    assert "6 of 6 told, 6 runs\n" in capsys.readouterr().out
    assert (told(), num_done()) == (before, 6)


@pytest.mark.slow
def test_flipped_study_bits_show_nothing_false(done, capsys):
    content, before, chance = done.study.read_bytes(), told(), random.Random(15)
    used = [index for index, byte in enumerate(content) if byte]
    refused = 0
    for _ in range(12):
        flipped = bytearray(content)
        flipped[chance.choice(used)] ^= 1 << chance.randrange(8)
        done.study.write_bytes(flipped)
        code = main.main(["resume", str(done.path)])
        refused += code == 2
        assert code in (0, 2) and told() == before and num_done() == 6
    print(f"flipped 12, refused {refused}")


@pytest.mark.slow
def test_lost_runs_are_redone_once(done):
    before = told()
    (path,) = done.path.glob("runs/3-*")
    lost = bits(path)
    shutil.rmtree(path)
    assert main.main([*SEEDS, "search.n_trials=6", "search.n_jobs=2"]) == 0
    assert bits(path) == lost
    assert told() == before


@pytest.mark.slow
def test_equal_configs_share_one_run(here, capsys):
    assert main.main([*FEW, "search.n_trials=6", "search.n_jobs=3"]) == 0
    assert (len(told()), num_done()) == (6, 2)
    assert len({(overrides, value) for _, overrides, value, _ in told()}) == 2
    assert "6 of 6 told, 2 runs\n" in capsys.readouterr().out


def test_trials_share_one_compiled_program(done):
    records = [store.read_record(RunFolder(path)) for path in (done.path / "runs").iterdir()]
    assert sum(record.timing.compiled_here for record in records) == 1


@pytest.mark.slow
def test_failed_runs_never_end_the_search(here, capsys):
    (here / "broken").touch()
    layer = ("layer=custom", "layer.target=my_layers.Fails", "layer.kwargs.when=broken,whole")
    assert main.main([*SEARCH, *layer, "search.n_trials=4"]) == 1
    values = {overrides: value for _, overrides, value, _ in told()}
    assert values["layer.kwargs.when=broken",] is None
    assert values["layer.kwargs.when=whole",] > 0
    assert "4 of 4 told, 2 runs, " in capsys.readouterr().out
    errors = {trial.error for trial in find.read_trials(mine()) if trial.value is None}
    assert errors == {"other: RuntimeError: the cable is out"}


@pytest.mark.slow
def test_invalid_configs_fail_their_trial(here, capsys):
    assert main.main([*SEARCH, "layer=linear,conv", "input_shape=[4]", "search.n_trials=4"]) == 0
    failed = [trial for trial in find.read_trials(mine()) if trial.value is None]
    assert failed
    assert {trial.run_id for trial in failed} == {None}
    assert {tuple(trial.overrides) for trial in failed} == {("layer=conv",)}
    assert (
        f"trial {failed[0].number} failed: layer=conv: layer conv can't take x of shape [4]" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_runs_without_objective_fail_their_trial(here, capsys):
    layer = ("layer=custom", "layer.target=my_layers.Divides", "layer.kwargs.by=0.0,1.0", "checks=warn")
    assert main.main([*SEARCH, *layer, "search.n_trials=4"]) == 0
    assert "layer.kwargs.by=0.0: its record has no number output_norm\n" in capsys.readouterr().err
    assert {value is None for _, (typed,), value, _ in told() if typed.endswith("=0.0")} == {True}


@pytest.mark.slow
def test_exhausted_samplers_end_the_search(here, capsys):
    brute = "hydra.sweeper.sampler._target_=optuna.samplers.BruteForceSampler"
    assert main.main([*FEW, "search.n_trials=9", brute]) == 0
    captured = capsys.readouterr()
    assert "BruteForceSampler(seed=0) has asked for all there is: 2 trials\n" in captured.err
    assert "2 of 9 told, 2 runs\n" in captured.out


@pytest.mark.slow
def test_typed_values_override_the_experiment_space(here, capsys):
    folder = here / "my_conf" / "experiment"
    folder.mkdir(parents=True)
    params = "hydra: {sweeper: {params: {seed: 'range(0,5)', features: 'range(4,6)'}}}"
    (folder / "mine.yaml").write_text(f"# @package _global_\n{params}\n")
    words = ["--config-dir", "my_conf", *SEARCH[1:], "+experiment=mine", "features=7"]
    assert main.main(["plan", *words]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "space" in line] == [
        "  space       seed=range(0,5)"
    ]


@pytest.mark.slow
def test_repeated_searches_print_the_best_trial(done, capsys):
    best = min(told(), key=lambda one: one[2])
    (run,) = done.path.glob(f"runs/{best[0]}-*")
    lines = [
        "trials      6 of 6 told, 6 runs",
        f"best        output_norm {best[2]:.6g}, trial {best[0]}: runs/{run.name}",
        f"            bridge-runner {' '.join(LEAN)} {best[1][0]}",
    ]
    before = {path: path.stat().st_mtime_ns for path in done.path.rglob("record.json")}
    assert main.main([*SEEDS, "search.n_trials=6"]) == 0
    assert {path: path.stat().st_mtime_ns for path in done.path.rglob("record.json")} == before
    assert "".join(f"  {line}\n" for line in lines) in capsys.readouterr().out
    assert main.main(["ls", str(done.path)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:4] == ["mine: 6 done", *lines]
    assert out.splitlines()[4].split() == ["run", "seed", "objective", "apply", "status"]


def test_ls_json_lists_trials_and_values(done, capsys):
    main.main(["ls", str(done.path), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [(row["trial"], row["objective"], row["run_id"]) for row in rows] == [(n, v, i) for n, _, v, i in told()]


def test_plan_prints_the_space_writing_nothing(here, capsys):
    assert main.main(["plan", *SEEDS[1:], "layer=linear,mlp", "search.n_jobs=3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "mine: minimize output_norm · 20 trials, 20 to come",
        "  folder      outputs/mine",
        "  space       seed=int(interval(0,1000000))",
        "  space       layer=linear,mlp",
        "  sampler     TPESampler(seed=0), 3 asked for together",
    ]
    assert not (here / "outputs").exists()


@pytest.mark.slow
def test_searches_on_other_launchers_agree(searched, here):
    assert main.main([*SEEDS, "search.n_trials=4", "search.n_jobs=2", "hydra/launcher=basic"]) == 0
    assert told() == told(SweepFolder(searched["part"] / "mine"))
    assert sorted(mine().submissions()) == [1, 2]
    assert queue.is_over(mine())


def test_searches_last_while_their_process_lives(done):
    assert queue.is_over(done)
    with contextlib.closing(Journal(done.trials)):
        assert not queue.is_over(done)


MISTAKES = [
    ("search.objective=loss_last", "search.objective=loss_last: without training no run has it.\n  Try: train=short"),
    ("search.n_jobs=1,2", "search.n_jobs=1,2: one value holds for a whole search.\n  Try: search.n_jobs=1"),
    (
        "search.direction=up",
        "search.direction=up: Invalid value 'up', expected one of [minimize, maximize].\n  Try: "
        "search.direction=minimize",
    ),
    (
        "grid.exclude=['seed>3']",
        "grid.exclude=['seed>3']: a search has no list of configs that this could be said of.\n  Try: grid.exclude=[]",
    ),
    (
        "hydra/sweeper/sampler=tp",
        "hydra/sweeper/sampler=tp: no such choice; there are random, tpe.\n  Try: hydra/sweeper/sampler=tpe",
    ),
    ("hydra.sweeper.n_trials=9", "hydra.sweeper.n_trials=9: no such key.\n  Try: search.n_trials=9"),
    ("features=int(interval(0,4))", "features=0: a layer gives at least one feature.\n  Try: features=8"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "said"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_mistakes_exit_with_2_writing_nothing(typed, said, here, capsys):
    assert main.main([*SEEDS, typed]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: {said}\n")
    assert not (here / "outputs").exists()


@pytest.mark.slow
def test_searches_without_valid_trials_are_refused(here, capsys):
    assert main.main([*SEARCH, "layer=conv", "input_shape=[4]", "seed=range(0,50)"]) == 2
    assert (
        "error: 8 of 8 configs of this sweep are invalid; nothing was run.\nlayer conv can't take x of shape [4]"
        in capsys.readouterr().err
    )
    assert not (here / "outputs").exists()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"objective": None}, "search.objective=null: a search looks for the best of a number of the record"),
        ({"objective": "wall_s", "n_trials": 0}, "search.n_trials=0: at least one trial is needed"),
        ({"objective": "wall_s", "n_jobs": -1}, "search.n_jobs=-1: at least one trial is needed"),
    ],
)
def test_a_search_for_nothing_is_refused(keys, said):
    with pytest.raises(ConfigError, match=said):
        SearchSettings(**keys).check()


@pytest.mark.slow
def test_another_study_is_left_unchanged(done, capsys):
    before = {path: path.stat().st_mtime_ns for path in done.path.rglob("*")}
    assert main.main([*SEEDS, "seed=int(interval(0,9))"]) == 2
    there = "outputs/mine holds another study: seed=int(interval(0,1000000))"
    assert capsys.readouterr().err == f"error: {there}.\n  Try: -m with sweep=another_name\n"
    assert {path: path.stat().st_mtime_ns for path in done.path.rglob("*")} == before


ABOUT = {
    "objective": "wall_s",
    "direction": "minimize",
    "space": {"seed": [0, 9]},
    "typed": ["seed=range(0,10)"],
    "fixed": {"features": 8, "tracking.mode": "disabled", "workers": None},
    "run_id": "1",
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"fixed": {"features": 8, "tracking.mode": "offline", "workers": 4}}, None),
        ({"typed": ["seed=range( 0, 10 )"]}, None),
        ({"objective": "loss_last"}, "search.objective=wall_s"),
        ({"direction": "maximize"}, "search.direction=minimize"),
        ({"space": {"seed": [0, 5]}, "typed": ["seed=range(0,6)"]}, "seed=range(0,10)"),
        ({"space": {"seed": [0, 9], "x": []}, "typed": ["seed=range(0,10)", "x=1,2"]}, "it goes over seed alone"),
        ({"run_id": "2", "fixed": {"features": 9, "tracking.mode": "offline"}}, "features=8"),
        ({"run_id": "2"}, "the source of its layer, or what it starts from, was another"),
    ],
)
def test_only_study_changes_are_reported(changes, said):
    assert objective.difference(ABOUT, ABOUT | changes) == said
    assert objective.difference({}, ABOUT | changes) is None


def test_sweep_folders_are_no_studies(done, capsys):
    done.study.unlink()
    plan = store.read_plan(done)
    del plan["study"]
    store.write_plan(done, plan)
    assert main.main([*SEEDS]) == 2
    said = "error: outputs/mine holds a sweep, and no study.\n  Try: -m with sweep=another_name\n"
    assert capsys.readouterr().err == said


@pytest.mark.slow
def test_studies_in_use_are_left_alone(done, capsys):
    with contextlib.closing(Journal(done.trials)):
        assert main.main([*SEEDS, "search.n_trials=7"]) == 2
    said = "error: outputs/mine: another process works on this study.\n  Try: wait for it, or sweep=another_name\n"
    assert capsys.readouterr().err == said
    assert not journal.is_held(done.trials)


def test_missing_optuna_is_reported(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main.main([*SEEDS]) == 2
    install = "pip install 'bridge-runner[optuna]'"
    assert capsys.readouterr().err == f"error: hydra/sweeper=optuna: Optuna is not installed.\n  Try: {install}\n"
    assert not (here / "outputs").exists()


def test_ties_go_to_the_first_trial():
    trials = [Trial(number=n, overrides=[], value=value) for n, value in enumerate((None, 2.0, 1.0, 1.0, 2.0))]
    assert best_trial(trials, greatest=False).number == 2
    assert best_trial(trials, greatest=True).number == 1
    assert best_trial(trials[:1], greatest=True) is None
