"""The state of each run when a sweep starts or resumes, from its journals and records."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.errors import StorageError
from runner.records import find, store
from runner.records.codec import growing
from runner.records.disk import intact
from runner.records.journal import Event
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import Status
from runner.timing import machine


class State(enum.Enum):
    """The state of a run before the sweep starts or resumes; a damaged one is not what its record says."""

    done = "done"
    failed = "failed"
    interrupted = "interrupted"
    damaged = "damaged"
    stale = "stale"
    new = "new"


FINISHED = frozenset({State.done, State.stale, State.failed})
# Moved aside before they are done again, so that nothing is lost.
ARCHIVED = frozenset({State.failed, State.stale, State.damaged})

# Journal event: the sweep's files and its own W&B run were made of the events before it.
CONCLUDED = "concluded"
# After one of these they are out of date.
CHANGES = find.STATUSES | {find.REMOVED, "tracked"}


def left_over(folder: RunFolder, run_id: str) -> State:
    """The state of a run whose end is in no journal, which may be lost or cut: then its sealed record says it."""
    if not folder.path.exists():
        return State.new
    if not folder.record.exists():
        return State.interrupted
    try:
        record = store.read_record(folder)
    except StorageError:
        return State.damaged
    if record.run_id != run_id or intact.changed_files(folder, record):
        return State.damaged
    return _ended(record.status.value, record.fingerprint.get("software_id"))


def _ended(status: str, software_id: Any) -> State:
    stale = status == Status.done.value and software_id != machine.fingerprint()["software_id"]
    return State.stale if stale else State(status)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the journals of a sweep say.

    Attributes:
      states: The state of each run that ended, by its id.
      tracked: Ids of the runs that have a W&B run.
      concluded: Whether what is derived from the runs (results, report, the sweep's own W&B run) is there and as new
        as they are.
    """

    states: Mapping[str, State] = field(default_factory=dict)
    tracked: frozenset[str] = frozenset()
    concluded: bool = False


def known_states(folder: SweepFolder, run_ids: Sequence[str]) -> Known:
    """What the folder has of these runs.

    Raises:
      StorageError: The folder holds another plan.
    """
    if not folder.plan.exists():
        return Known()
    with growing():
        return _known_states(folder, run_ids)


def _known_states(folder: SweepFolder, run_ids: Sequence[str]) -> Known:
    known = [run["run_id"] for run in store.read_plan(folder)["runs"]]
    if set(known) != set(run_ids):
        common = len(set(known) & set(run_ids))
        others = f"{len(known)} runs, {common} of them among these {len(run_ids)}"
        raise StorageError(f"{folder.path} holds another plan: {others}", "-m with sweep=another_name")
    states: dict[str, State] = {}
    tracked: set[str] = set()
    ended: dict[tuple[str, str], State] = {}
    nums = {run_id: num for num, run_id in enumerate(run_ids)}
    events = store.read_events(folder)
    for event in events:
        run_id = event.get("run_id")
        if run_id in nums and event["event"] in (Status.done.value, Status.failed.value):
            end = event["event"], event["software_id"]
            states[run_id] = ended.get(end) or ended.setdefault(end, _ended(*end))
            tracked.discard(run_id)
        elif event["event"] == "tracked":
            tracked.add(str(run_id))
    confirmed = {
        run_id: _confirmed(folder.record_path(nums[run_id], run_id), state) for run_id, state in states.items()
    }
    return Known(states=confirmed, tracked=frozenset(tracked), concluded=_is_concluded(folder, events))


def _is_concluded(folder: SweepFolder, events: Sequence[Event]) -> bool:
    """Whether the sweep's files exist and no event of a run is newer."""
    for event in reversed(events):
        if event["event"] == CONCLUDED:
            return all((folder.path / name).exists() for name in event["files"])
        if event["event"] in CHANGES:
            return False
    return False


def _confirmed(record: str, state: State) -> State:
    """`state`, unless the run's record is missing (its folder was deleted) or damaged."""
    if store.is_whole_record(record):
        return state
    return State.damaged if os.path.exists(record) else State.interrupted
