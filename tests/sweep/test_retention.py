"""Which checkpoints stay: the ones that were asked for, whatever happens in between; the other runs stay done."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import run

import runner
from runner.arrays import checkpoint, trees
from runner.commands import main
from runner.config.enums import Mode
from runner.config.settings.train import CheckpointSettings
from runner.errors import UserError
from runner.records import find, paths, store
from runner.records.paths import RunFolder
from runner.sweep.writing import retention

LEAN = ("tracking=disabled", "timing=off", "checks=off")
SWEEP = ("-m", "seed=range(0,5)", "train.steps=2", "sweep=s", *LEAN)
BEST = ("checkpoint.keep=best:2", "checkpoint.metric=loss_last")
WHY = "checkpoint.keep=best:2 checkpoint.metric=loss_last checkpoint.mode=min"


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A folder with a sweep that kept every checkpoint."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main.main(list(SWEEP)) == 0
    return folder


@pytest.fixture
def here(swept, tmp_path, monkeypatch) -> Path:
    """A copy of it."""
    copy = shutil.copytree(swept, tmp_path / "copy")
    monkeypatch.chdir(copy)
    return copy


def folders() -> list[RunFolder]:
    found = sorted(Path("outputs/s/runs").iterdir(), key=lambda path: int(path.name.split("-")[0]))
    return [RunFolder(path) for path in found]


def kept() -> list[int]:
    """Numbers of the runs with a checkpoint, each compared with its record; the others have none and say so."""
    nums = []
    for folder in folders():
        record = store.read_record(folder)
        assert record.checkpoint is not None and record.train is not None and record.train.state is not None
        if record.checkpoint.removed is None:
            assert trees.tree_digest(trees.leaves(checkpoint.restore(folder.checkpoint))) == record.checkpoint.digest
            nums.append(record.num)
        assert record.train.state.removed == record.checkpoint.removed
        assert folder.checkpoint.exists() == folder.train_state.exists() == (record.checkpoint.removed is None)
    return nums


def by_loss() -> list[int]:
    """Numbers of the runs, that with the smallest last loss first."""
    records = [store.read_record(folder) for folder in folders()]
    return [record.num for record in sorted(records, key=lambda record: record.train.losses[-1])]


@pytest.mark.slow
def test_retention_keeps_the_best_checkpoints(swept, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *SWEEP, *BEST)
    assert (code, err) == (0, "")
    assert kept() == sorted(by_loss()[:2])
    assert f"  checkpoints outputs/s/runs/*/checkpoint  (plain Orbax, 2 of 5 kept: {WHY})\n" in out
    assert [store.read_record(folders()[num]).checkpoint.removed for num in by_loss()[2:]] == [WHY] * 3
    rows = {row.num: row for row in find.read_rows(paths.SweepFolder(Path("outputs/s")))}
    assert sorted(num for num, row in rows.items() if row.checkpoint_bytes) == kept()
    assert {row.status for row in rows.values()} == {"done"}


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["checkpoint.keep=all"], lambda order: [0, 1, 2, 3, 4]),
        (["checkpoint.keep=last:2"], lambda order: [3, 4]),
        (["checkpoint.keep=last:9"], lambda order: [0, 1, 2, 3, 4]),
        (BEST, lambda order: sorted(order[:2])),
        ([*BEST, "checkpoint.mode=max"], lambda order: sorted(order[-2:])),
        (["checkpoint.keep=best:1", "checkpoint.metric='train.losses[-1]'"], lambda order: order[:1]),
        # Of equal ones the first stays; so do those without the number, after all others.
        (["checkpoint.keep=best:2", "checkpoint.metric=num_params"], lambda order: [0, 1]),
        (["checkpoint.keep=best:2", "checkpoint.metric=apply_latency_median_s"], lambda order: [0, 1]),
    ],
)
def test_changing_the_retention_rule_applies_it(words, wanted, here, capsys):
    order = by_loss()
    assert run(capsys, *SWEEP, *words)[0] == 0
    assert kept() == wanted(order)
    code, out, _ = run(capsys, "verify", "outputs/s")
    gone = 5 - len(kept())
    without = f", {gone} of them without a checkpoint (removed by retention)" if gone else ""
    assert (code, out) == (0, f"5 of 5 runs verified{without}\n")


@pytest.mark.slow
def test_removed_checkpoints_stay_removed(here, capsys):
    import pyarrow.parquet as pq

    order = by_loss()
    assert run(capsys, "resume", "outputs/s", *BEST)[0] == 0
    assert run(capsys, *SWEEP, "checkpoint.keep=last:1")[0] == 0
    assert kept() == [max(order[:2])]
    table = pq.read_table("outputs/s/results.parquet").to_pydict()
    said = {num: store.read_record(folders()[num]).checkpoint.removed for num in range(5)}
    assert dict(zip(table["num"], table["checkpoint_removed"], strict=True)) == said
    assert set(said.values()) == {None, WHY, "checkpoint.keep=last:1"}


def test_with_none_no_checkpoint_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "sweep=s", *LEAN, "checkpoint.keep=none")[0] == 0
    (folder,) = folders()
    assert store.read_record(folder).checkpoint is None
    assert not folder.checkpoint.exists()
    assert run(capsys, "verify", folder.path)[0] == 0


@pytest.mark.slow
def test_leftovers_of_kills_are_removed(here, capsys):
    gone = by_loss()[-1]
    shutil.copytree(folders()[gone].checkpoint, "left")
    assert run(capsys, *SWEEP, *BEST)[0] == 0
    shutil.copytree("left", folders()[gone].checkpoint)
    (folders()[gone].checkpoint / "_METADATA").unlink()
    assert run(capsys, "verify", "outputs/s")[0] == 0
    assert run(capsys, *SWEEP, *BEST)[0] == 0
    assert gone not in kept()


@pytest.mark.slow
def test_unlogged_removals_are_caught_up_later(here, capsys):
    assert run(capsys, *SWEEP, *BEST)[0] == 0
    journal = paths.SweepFolder(here / "outputs" / "s").journal
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if f'"{find.REMOVED}"' not in line))
    assert [row.num for row in find.read_rows(paths.SweepFolder(journal.parent)) if row.checkpoint_bytes] != kept()
    assert run(capsys, *SWEEP, *BEST)[0] == 0
    assert [row.num for row in find.read_rows(paths.SweepFolder(journal.parent)) if row.checkpoint_bytes] == kept()


@pytest.mark.slow
def test_runs_without_checkpoint_stay_done(here, capsys):
    assert run(capsys, *SWEEP, *BEST)[0] == 0
    folder = folders()[by_loss()[-1]]
    record = store.read_record(folder)
    said = f"its checkpoint was removed by retention ({WHY})"
    num_files = sum(path.is_file() for path in folder.path.rglob("*"))
    detail = f"{folder.path.name}: {num_files} files as they were written; {said}\n"
    last = "1 of 1 runs verified, 1 of them without a checkpoint (removed by retention)\n"
    assert run(capsys, "verify", folder.path) == (0, f"{detail}{last}", "")
    again = f"\n  Try: bridge-runner {' '.join(record.overrides)} sweep=again"
    with pytest.raises(UserError) as caught:
        runner.reload(folder.path)
    assert str(caught.value) == f"{folder.path}: {said}.{again}"
    code, _, err = run(capsys, f"variables={folder.path}", *LEAN)
    assert (code, err) == (2, f"error: variables={folder.path}: {said}.{again}\n")
    assert f"  the checkpoint was removed: {WHY}\n" in run(capsys, "show", folder.path)[1]
    assert run(capsys, "rerun", folder.path)[0] == 0


# Rules and numbers.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["checkpoint.keep=best"],
            "checkpoint.keep=best: a sweep keeps all, none, last:N or best:N, N being at least 1.\n"
            "  Try: checkpoint.keep=last:3",
        ),
        (
            ["checkpoint.keep=last:0"],
            "checkpoint.keep=last:0: a sweep keeps all, none, last:N or best:N, N being at least 1.\n"
            "  Try: checkpoint.keep=last:3",
        ),
        (
            ["checkpoint.keep=best:3"],
            "checkpoint.keep=best:3: the number that best goes by is not named.\n"
            "  Try: checkpoint.keep=best:3 checkpoint.metric=loss_last",
        ),
        (
            ["checkpoint.keep=best:3", "checkpoint.metric=los_last"],
            "checkpoint.metric=los_last: no number of a record; there are loss_last, loss_first and others.\n"
            "  Try: checkpoint.metric=loss_last",
        ),
        (
            ["-m", "checkpoint.keep=last:1,last:2"],
            "checkpoint.keep=last:1,last:2: one value holds for a whole sweep.\n  Try: checkpoint.keep=last:1",
        ),
    ],
)
def test_invalid_retention_rules_are_refused(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *words, *LEAN) == (2, "", f"error: {said}\n")
    assert list(tmp_path.iterdir()) == []


def test_nan_metrics_rank_last(here):
    keeper = retention.Keeper(CheckpointSettings(keep="best:1", metric="wall_s", mode=Mode.max))
    records = [store.read_record(folder) for folder in folders()[:2]]
    first = replace(records[0], wall_s=float("nan"))
    assert keeper.add(first, folders()[0]) == []
    assert [record.num for record, _ in keeper.add(replace(records[1], wall_s=0.1), folders()[1])] == [0]


def test_a_run_done_again_counts_once(here):
    keeper = retention.Keeper(CheckpointSettings(keep="best:2", metric="wall_s", mode=Mode.min))
    first, second = folders()[:2]
    for folder in (first, first, second):
        assert keeper.add(replace(store.read_record(folder), wall_s=1.0), folder) == []
