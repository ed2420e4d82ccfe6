"""`bridge-runner sync`: uploads a sweep's W&B runs to a server, each once, afterwards or while it runs."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from runner.config import env_secrets, serialize
from runner.errors import ServerError, StorageError
from runner.launch import queue
from runner.records import columns, find, journal, paths, store
from runner.records.disk import files
from runner.records.paths import SweepFolder
from runner.records.row import Row
from runner.report.terminal import Terminal
from runner.tracking import online, wandb_files, wandb_server, wandb_tracker, wandb_workspace
from runner.tracking.wandb_files import OfflineRun
from runner.tracking.wandb_server import Server

EXIT_NOT_SENT = 1

# Uploaded and noted per batch, so a kill repeats at most one batch. While a sweep runs the first batches are small
# and double each time: whoever is watching wants to see something early.
BATCH_RUNS = 16
FIRST_RUNS = 2

# Give up on a server after it has accepted nothing from this many batches in a row.
MAX_REFUSED_BATCHES = 2

# While a sweep runs: seconds between two polls of the journal, and for the last file to be written after its end.
WATCH_S = 0.3
LAST_FILE_S = 10.0

# Between two checks that the parent is still alive.
PARENT_S = 1.0


@dataclass(frozen=True)
class _Sweep:
    """A sweep whose W&B runs are uploaded.

    Attributes:
      folder: Where it is.
      rows: Its runs that count.
      names: Names of the W&B runs that it should have, by id.
    """

    folder: SweepFolder
    rows: Sequence[Row]
    names: Mapping[str, str]

    @property
    def whole_id(self) -> str:
        """Id of the sweep's own W&B run."""
        return wandb_files.wandb_id(self.folder.name, "sweep")

    def id_of(self, run_id: str) -> str:
        """Id of the W&B run of a record."""
        return wandb_files.wandb_id(self.folder.name, run_id[:12])

    def whole_runs(self) -> dict[str, OfflineRun]:
        """W&B runs whose files exist and are complete, by id."""
        found = wandb_files.find_offline_runs(self.folder.wandb)
        runs = {key: wandb_files.read_offline_run(found[key]) for key in self.names if key in found}
        return {key: run for key, run in runs.items() if run is not None}

    def send(self, server: Server, batch: Sequence[OfflineRun]) -> dict[str, str]:
        """Uploads runs and notes which ones arrived; returns by id why others did not."""
        answers = server.send(batch)
        arrived = {run.folder.name: url for run in batch if (url := answers[run.wandb_id].url) is not None}
        wandb_files.append_sent(self.folder.wandb, server.url, arrived)
        return {key: answer.why for key, answer in answers.items() if answer.why is not None}


def sync(path: Path, *, workspace: bool = False) -> int:
    """Uploads all W&B runs of the sweep at `path` that the server lacks; missing ones are first rebuilt from records.

    Args:
      path: The sweep.
      workspace: Whether to save a workspace of their project too.

    Returns:
      0, or 1 if the server does not have all of them.

    Raises:
      UserError: There is no sweep, another process is working on it, no API key is configured, or no server answers.
    """
    if workspace:
        wandb_workspace.require()
    sweep = _sweep(path, ended_only=True)
    with Terminal() as terminal, files.locked(sweep.folder):
        runs = _complete(sweep, terminal)
        with wandb_server.connected(sweep.folder.wandb) as server:
            sent = wandb_files.read_sent(sweep.folder.wandb, server.url)
            pending = [run for run in runs.values() if run.folder.name not in sent]
            terminal.line(f"{sweep.folder.name}: {len(sweep.names)} W&B runs, {len(runs) - len(pending)} sent before")
            refused = _send_all(sweep, server, pending, terminal)
            for place in dict.fromkeys(map(server.place_of, runs.values())) if workspace else ():
                url, is_new = wandb_workspace.save(server, *place)
                terminal.line(f"workspace by program{'' if is_new else ', there before'}: {url}")
        for wandb_id, why in refused.items():
            terminal.warned(f"not sent: {sweep.names[wandb_id]}: {why}")
        return _conclude(sweep, server, terminal)


def watch(path: Path, *, parent: int | None = None) -> int:
    """Uploads the W&B runs of the sweep at `path` as they end, until the sweep does; prints a line per run.

    Args:
      path: The sweep.
      parent: The process that this one must end with, if any.

    Returns:
      0, or 1 if the server does not have all of them.

    Raises:
      UserError: There is no sweep, no API key is configured, no server answers, or it accepts nothing.
    """
    sweep = _sweep(path)
    _tie_to(parent)
    with Terminal() as terminal:
        hurry = parent is not None
        with wandb_server.connected(sweep.folder.wandb, hasty=hurry, heard=_sign if hurry else lambda: None) as server:
            terminal.line(f"sending to {server.url}")
            for batch in _as_they_come(sweep, server):
                refused = sweep.send(server, batch)
                for run in batch:
                    name, why = sweep.names[run.wandb_id], refused.get(run.wandb_id)
                    terminal.line(f"not sent: {name}: {why}" if why else f"sent {name}")
                if len(refused) == len(batch):
                    raise ServerError(f"the W&B server at {server.url} takes no runs: {refused[batch[-1].wandb_id]}")
        return _conclude(_sweep(path, ended_only=True), server, terminal)


def follow(path: Path, *, parent: int | None = None) -> int:
    """Uploads the W&B run in `path` while it is being written, until it is complete.

    Args:
      path: `offline-run-…`.
      parent: The process that this one must end with, if any.

    Raises:
      UserError: No API key is configured, or no server answers.
    """
    _tie_to(parent)
    with wandb_server.connected(path.parent, hasty=True):
        wandb_server.send_live(path)
    return 0


def _sweep(path: Path, *, ended_only: bool = False) -> _Sweep:
    """The sweep at `path` with all its runs, or those that have ended so far.

    Raises:
      StorageError: There is no sweep, it can't be written to, or none of its runs has ended.
    """
    folder = SweepFolder(path)
    rows = find.read_rows(folder)
    paths.require_writable(folder.path)
    folder.wandb.mkdir(exist_ok=True)
    wanted = [row for row in rows if row.status in find.STATUSES or not ended_only]
    if not wanted:
        raise StorageError(f"{path} has no run that has ended", f"bridge-runner sync {path} --watch")
    names = {wandb_files.wandb_id(folder.name, row.run_id[:12]): row.label for row in wanted}
    # A single run has no W&B run for its sweep.
    whole = {wandb_files.wandb_id(folder.name, "sweep"): "the run of the sweep"} if len(rows) > 1 else {}
    return _Sweep(folder, wanted, names | whole)


def _complete(sweep: _Sweep, terminal: Terminal) -> dict[str, OfflineRun]:
    """All W&B runs of the sweep by id, after rebuilding those that are missing, truncated or stale."""
    there = sweep.whole_runs()
    if sweep.whole_id in there and _is_stale(sweep.folder, there[sweep.whole_id]):
        del there[sweep.whole_id]
    missing = sweep.names.keys() - there.keys()
    if not missing:
        return there
    # Before building much: is there a server to upload it to?
    with wandb_server.connected(sweep.folder.wandb):
        terminal.line(f"W&B runs made from their records, since missing or out of date: {len(missing)}")
    kept = sweep.rows[0].settings
    # What W&B is asked for is taken from the environment again; what it shows, notes and tags, stays redacted.
    names = env_secrets.resolve({name: kept["tracking"][name] for name in env_secrets.TRACKED})
    asked = serialize.from_data(kept | {"tracking": kept["tracking"] | names}).tracking
    rows = []
    tracker = wandb_tracker.WandbTracker(asked, sweep.folder.path, sweep.folder.name, terminal.warned)
    with closing(tracker), terminal.progress("making", len(sweep.rows)) as advance:
        for row in sweep.rows:
            run_folder = sweep.folder.run(row.num, row.run_id)
            record = store.read_record(run_folder)
            rows.append(columns.results_row(record))
            if sweep.id_of(row.run_id) in missing:
                tracker.log(record, store.read_output(run_folder, record) if record.output else {}, run_folder.path)
            advance()
        if sweep.whole_id in missing:
            tracker.log_sweep(sweep.folder.name, rows)
    return sweep.whole_runs()


def _is_stale(folder: SweepFolder, run: OfflineRun) -> bool:
    """Whether the sweep's own W&B run is older than its results table or its report."""
    if run.summary.get("results_digest") != wandb_tracker.results_digest(folder):
        return True
    return folder.report.exists() and folder.report.stat().st_mtime > run.folder.stat().st_mtime


def _send_all(sweep: _Sweep, server: Server, pending: Sequence[OfflineRun], terminal: Terminal) -> dict[str, str]:
    """Uploads in batches, retrying rejected ones once while others arrive; returns by id why the rest were not sent."""
    refused: dict[str, str] = {}
    with terminal.progress("sending", len(pending)) as advance:
        while pending:
            refused, num_lost_batches = {}, 0
            for start in range(0, len(pending), BATCH_RUNS):
                batch = pending[start : start + BATCH_RUNS]
                if num_lost_batches == MAX_REFUSED_BATCHES:
                    refused |= dict.fromkeys((run.wandb_id for run in batch), "the server took none before it")
                    continue
                lost = sweep.send(server, batch)
                refused |= lost
                num_lost_batches = num_lost_batches + 1 if len(lost) == len(batch) else 0
                for _ in range(len(batch) - len(lost)):
                    advance()
            if len(refused) == len(pending):
                break
            pending = [run for run in pending if run.wandb_id in refused]
    return refused


def _as_they_come(sweep: _Sweep, server: Server) -> Iterator[list[OfflineRun]]:
    """Yields batches of runs that are built but not yet sent, until the sweep has ended and none is left."""
    sent = set(wandb_files.read_sent(sweep.folder.wandb, server.url))
    made: set[str] = set()
    read: dict[str, int] = {}
    size, over_at = FIRST_RUNS, None
    while True:
        made |= _newly_made(sweep, read)
        if over_at is None and queue.is_over(sweep.folder):
            over_at = time.monotonic()
            made |= _newly_made(sweep, read) | {sweep.whole_id}
        found = wandb_files.find_offline_runs(sweep.folder.wandb) if made else {}
        made -= {key for key in made if key in found and found[key].name in sent}
        left = [found[key] for key in made if key in found]
        # A run's file is complete only a moment after it was tracked.
        whole = list(itertools.islice(filter(None, map(wandb_files.read_offline_run, left)), size))
        if whole:
            made -= {run.wandb_id for run in whole}
            size = min(2 * size, BATCH_RUNS)
            yield whole
        elif over_at is not None and (not left or time.monotonic() > over_at + LAST_FILE_S):
            return
        else:
            time.sleep(WATCH_S)


def _newly_made(sweep: _Sweep, read: dict[str, int]) -> set[str]:
    """Ids of W&B runs in new journal entries; `read` has the bytes read so far of each journal and is updated."""
    made: set[str] = set()
    for name in store.journal_sizes(sweep.folder):
        events, read[name] = journal.read_on(sweep.folder.path / name, read.get(name, 0))
        made |= {sweep.id_of(event["run_id"]) for event in events if event["event"] == "tracked"}
    return made


def _sign() -> None:
    # Not to sys.stdout, which wandb has captured meanwhile.
    print(".", file=sys.__stdout__, flush=True)


def _tie_to(parent: int | None) -> None:
    if parent is not None:
        # If the parent is killed while we are stopped, the kernel wakes us with it, but not wandb-core.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_S)
    for pid in online.children(os.getpid()):
        os.kill(pid, signal.SIGKILL)
    os._exit(EXIT_NOT_SENT)


def _conclude(sweep: _Sweep, server: Server, terminal: Terminal) -> int:
    """Prints how many of the runs are on the server, and where."""
    sent = wandb_files.read_sent(sweep.folder.wandb, server.url)
    found = wandb_files.find_offline_runs(sweep.folder.wandb)
    urls = [sent[found[key].name] for key in sweep.names if key in found and found[key].name in sent]
    place = urls[-1].partition("/runs/")[0] if urls else server.url
    terminal.line(f"{len(urls)} of {len(sweep.names)} W&B runs are at {place}")
    return 0 if len(urls) == len(sweep.names) else EXIT_NOT_SENT
