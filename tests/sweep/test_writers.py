"""Runs that other processes write: the files that this process writes, whatever becomes of the others."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from told_reporter import Reporter

from runner.arrays import host_saves
from runner.config.composing.composed import Config
from runner.config.env_secrets import Redaction
from runner.config.settings.train import CheckpointSettings
from runner.errors import StorageError
from runner.records import find, store
from runner.records.disk import files
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import Record
from runner.sweep import execute as engine
from runner.sweep.plan import make_plan
from runner.sweep.run_state import State
from runner.sweep.writing import run_writer, write_run, writers
from runner.tracking.pool import InlineTracking
from runner.tracking.processes import Processes
from runner.tracking.tracker import NullTracker

SEEDS = range(5)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few runs as these pay for processes."""
    monkeypatch.setattr(writers, "MIN_SENT_RUNS", len(SEEDS))


@pytest.fixture
def none_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(what: object) -> None:
        raise AssertionError("written by this process")

    monkeypatch.setattr(run_writer, "_committed", refuse)


@pytest.fixture
def sweep(make_run: Callable[..., object], tmp_path: Path) -> Callable[..., tuple[SweepFolder, Reporter]]:
    def run(name: str, *words: str, killed: bool = False) -> tuple[SweepFolder, Reporter]:
        started: list[Processes] = []

        def tracking(*, num_runs: int, processes: Processes) -> InlineTracking:
            started.append(processes)
            return InlineTracking(NullTracker())

        class Killer(Reporter):
            def started(self, plan: object, num_pending: int) -> None:
                if killed:
                    os.kill(started[0].submit(os.getpid).result(), signal.SIGKILL)

        runs = [make_run("checks=off", f"seed={seed}", *words) for seed in SEEDS]
        plan = make_plan([Config(run=one) for one in runs], lambda _: SweepFolder(tmp_path / name))
        reporter = Killer()
        engine.execute(plan, tracking=tracking, reporter=reporter)
        return SweepFolder(tmp_path / name), reporter

    return run


def records(folder: SweepFolder) -> list[Record]:
    found = [store.read_record(RunFolder(path)) for path in (folder.path / "runs").iterdir()]
    return sorted(found, key=lambda record: record.num)


def lasting(record: Record) -> dict[str, object]:
    """What two executions of a run have in common."""
    changing = ("started_at", "wall_s", "timing", "train", "load_average", "sweep", "files")
    values = {key: value for key, value in dataclasses.asdict(record).items() if key not in changing}
    kept = {name: digest for name, digest in record.files.items() if Path(name).name not in files.TIME_AND_PLACE}
    return values | kept


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("timing=off",), marks=pytest.mark.slow, id="off"),
        pytest.param(("timing=quick", "train=short", "train.steps=2"), id="on"),
    ],
)
def test_processes_write_the_same_files(few, none_here, sweep, monkeypatch, words):
    sent, reporter = sweep("sent", *words)
    monkeypatch.undo()
    here, _ = sweep("here", *words)
    for one, other in zip(records(sent), records(here), strict=True):
        assert lasting(one) == lasting(other)
    assert [row.status for row in find.read_rows(sent)] == ["done"] * len(SEEDS)
    assert reporter.said == []


def test_large_results_stay_in_this_process(few, none_here, sweep, monkeypatch):
    monkeypatch.setattr(write_run, "MAX_SENT_BYTES", 0)
    with pytest.raises(AssertionError, match="written by this process"):
        sweep("large", "timing=off")


@pytest.mark.parametrize("timing", ["off", pytest.param("quick", marks=pytest.mark.slow)])
def test_dead_writer_loses_no_run(few, sweep, timing):
    folder, reporter = sweep("dead", f"timing={timing}", killed=True)
    assert [(record.num, record.status.value) for record in records(folder)] == [(num, "done") for num in SEEDS]
    assert [row.status for row in find.read_rows(folder)] == ["done"] * len(SEEDS)
    (sentence,) = reporter.said
    assert sentence.startswith("a process that writes runs died (A ")
    assert sentence.endswith("): this one writes them now")


class Breakable(nnx.Module):
    """Fails while `BROKEN` has anything."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(jax.random.normal(rngs.params(), (4,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        def look(y: np.ndarray) -> np.ndarray:
            if BROKEN:
                raise ValueError("broken")
            return y

        return jax.pure_callback(look, jax.ShapeDtypeStruct(x.shape, x.dtype), x * self.weight)


BROKEN: list[str] = []


def test_dead_writer_keeps_what_failed_before(few, sweep, monkeypatch):
    words = ("timing=off", "layer=custom", f"layer.target={__name__}.Breakable")
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "BROKEN", ["x"])
        before, _ = sweep("again", *words)
    assert {record.status.value for record in records(before)} == {"failed"}
    sweep("again", *words, killed=True)
    folders = sorted(path.name for path in (before.path / "runs").iterdir())
    kept, done = [name for name in folders if ".old-" in name], [name for name in folders if ".old-" not in name]
    assert kept == [f"{name}.old-1" for name in done]
    assert len(done) == len(SEEDS)
    assert [store.read_record(RunFolder(before.path / "runs" / name)).status.value for name in done] == ["done"] * 5


@dataclasses.dataclass
class Disk:
    """What was flushed, in order, and which runs the journal had on disk when each was told of."""

    flushed: list[str] = dataclasses.field(default_factory=list)
    on_disk: bytes = b""
    sealed_after: dict[str, set[str]] = dataclasses.field(default_factory=dict)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        fsync, replace = os.fsync, os.replace

        def flush(descriptor: int) -> None:
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            fsync(descriptor)
            self.flushed.append(name.replace(host_saves.TEMPORARY, ""))
            if name.endswith("journal.jsonl"):
                self.on_disk = Path(name).read_bytes()

        def seal(old: os.PathLike[str], new: os.PathLike[str]) -> None:
            self.sealed_after[str(new)] = set(self.flushed)
            replace(old, new)

        patch.setattr(os, "fsync", flush)
        patch.setattr(os, "replace", seal)


@pytest.mark.parametrize("words", [("train=short", "train.steps=2"), ("checkpoint=none",)], ids=["trained", "no save"])
def test_all_that_a_run_wrote_is_flushed_once_before_its_record(sweep, monkeypatch, words):
    disk = Disk()
    disk.watch(monkeypatch)
    folder, _ = sweep("flushed", "timing=off", *words)
    for run in (folder.path / "runs").iterdir():
        wrote = {str(path) for path in (run, *run.rglob("*")) if path.name != "record.json"}
        assert wrote <= disk.sealed_after[str(run / "record.json")]
        assert {disk.flushed.count(name) for name in wrote - {str(run)}} == {1}


def test_runs_are_told_of_once_their_lines_are_on_disk(few, sweep, monkeypatch):
    disk, told = Disk(), []
    disk.watch(monkeypatch)
    monkeypatch.setattr(
        Reporter, "finished", lambda _, record, folder: told.append(record.run_id.encode() in disk.on_disk)
    )
    sweep("lines", "timing=off")
    assert told == [True] * len(SEEDS)
    told.clear()
    monkeypatch.setattr(disk, "on_disk", b"")
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    sweep("unflushed", "timing=off")
    assert told == [False] * len(SEEDS)


def test_what_could_not_be_saved_leaves_nothing_half(sweep, tmp_path):
    folder, _ = sweep("saved", "timing=off")
    record = records(folder)[0]
    run = folder.run(0, record.run_id)
    ones = np.ones(2, np.float32)
    changes = {"folder": RunFolder(tmp_path / "run"), "state": State.new, "keeps_steps": False, "output": {}}
    changes |= {"variables": {"params": {"w": ones}}, "train_state": {"a/b": ones}, "hydra_files": {}, "sources": {}}
    writing = dataclasses.replace(
        writing_of(run, record), checkpoint=CheckpointSettings(), redaction=Redaction({}), **changes
    )
    failed = write_run.commit(writing)
    assert (failed.status.value, failed.error.kind.value) == ("failed", "checkpoint")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["record.json"]


def writing_of(folder: RunFolder, record: Record) -> write_run.Writing:
    rest = dict.fromkeys(write_run.Writing.__dataclass_fields__)
    return write_run.Writing(**rest | {"folder": folder, "record": record})


def test_what_a_dead_writer_wrote_is_kept(sweep):
    folder, _ = sweep("kept", "timing=off")
    run = folder.run(0, records(folder)[0].run_id)
    record = store.read_record(run)
    assert write_run.written(writing_of(run, record)) == record
    earlier = dataclasses.replace(record, started_at="2026-01-01T00:00:00+00:00")
    assert write_run.written(writing_of(run, earlier)) is None
    run.record.unlink()
    assert write_run.written(writing_of(run, record)) is None


def test_what_a_dead_writer_wrote_stays(sweep, monkeypatch):
    folder, reporter = sweep("stays", "timing=off")
    run = folder.run(0, records(folder)[0].run_id)
    record = store.read_record(run)

    def fail(what: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(run_writer, "_committed", fail)
    writer = run_writer.RunWriter(journal=None, reporter=reporter, tracking=None, ending=None, processes=Processes(1))
    dead: Future[Record] = Future()
    dead.set_exception(BrokenProcessPool("killed"))
    assert writer._record(run_writer._Begun(None, None, writing_of(run, record), dead)) == record
    assert reporter.said == ["a process that writes runs died (killed): this one writes them now"]


def refuse() -> None:
    raise StorageError("the disk is full", "make room")


def level() -> int:
    return logging.getLogger("absl").level


def test_processes_hand_errors_and_quiet_over():
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    processes = Processes(1)
    processes.start()
    assert not processes.running
    processes.need(["json"], os.getpid)
    processes.start()
    try:
        with pytest.raises(StorageError, match=r"^the disk is full.\n  Try: make room$"):
            processes.submit(refuse).result(timeout=60)
        assert processes.submit(level).result(timeout=60) == logging.CRITICAL
    finally:
        processes.close()
