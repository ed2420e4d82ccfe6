"""The state of each run when a sweep starts or resumes, from its journals and records."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from runner.errors import StorageError
from runner.records import store
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import Status
from runner.timing import machine


class State(enum.Enum):
    """The state of a run before the sweep starts or resumes."""

    done = "done"
    failed = "failed"
    interrupted = "interrupted"
    stale = "stale"
    new = "new"


FINISHED = frozenset({State.done, State.stale, State.failed})


def left_over(folder: RunFolder) -> State:
    """The state of a run whose end is in no journal."""
    return State.interrupted if folder.path.exists() else State.new


def known_states(folder: SweepFolder, run_ids: Sequence[str]) -> tuple[dict[str, State], set[str]]:
    """States of the runs that the folder has, and which of them are tracked.

    Raises:
      StorageError: The folder holds another plan.
    """
    if not folder.plan.exists():
        return {}, set()
    known = [run["run_id"] for run in store.read_plan(folder)["runs"]]
    if set(known) != set(run_ids):
        common = len(set(known) & set(run_ids))
        others = f"{len(known)} runs, {common} of them among these {len(run_ids)}"
        raise StorageError(f"{folder.path} holds another plan: {others}", "-m with sweep=another_name")
    states: dict[str, State] = {}
    tracked: set[str] = set()
    software_id = machine.fingerprint()["software_id"]
    nums = {run_id: num for num, run_id in enumerate(run_ids)}
    for event in store.read_events(folder):
        run_id = event.get("run_id")
        if run_id in nums and event["event"] in (Status.done.value, Status.failed.value):
            stale = event["event"] == Status.done.value and event["software_id"] != software_id
            states[run_id] = State.stale if stale else State(event["event"])
            tracked.discard(run_id)
        elif event["event"] == "tracked":
            tracked.add(str(run_id))
    confirmed = {run_id: _confirmed(folder.run(nums[run_id], run_id), state) for run_id, state in states.items()}
    return confirmed, tracked


def _confirmed(folder: RunFolder, state: State) -> State:
    """`state`, or interrupted if the run's record is missing or damaged."""
    return state if store.has_whole_record(folder) else State.interrupted
