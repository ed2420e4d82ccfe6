"""Which runs killed the process that they ran in, by the marks that it left in its journal; they are not tried again.

While a run is executed its journal says so (`begin` … `executed`), and while a program is compiled and checked
(`compile` … `compiled`). Runs that train together (`train` … `trained`) are suspected together, and then tried apart. A
process that ends of itself says `end` or `left`. Where neither follows, what was going on is suspected: such runs are
tried last, one program at a time. One is to blame where its death is proved, by what `faulthandler` wrote of it, or has
come too often. That the system killed a process for want of memory, by the kernel's count of them, proves nothing: it
may have been another's.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config.enums import Retry
from runner.records import journal
from runner.records.disk import plain_files
from runner.records.journal import Event
from runner.records.paths import SweepFolder
from runner.records.record import FailureKind, Status
from runner.sweep.plan import Plan, Task
from runner.sweep.programs import COMPILED
from runner.timing import memory

# What was going on at this many deaths without a proof is to blame: a sweep that is killed and resumed again and again
# meets the same run more than once. Fewer are enough where the system was short of memory each time.
MANY_DEATHS = 5
MANY_STARVED = 2

# How a journal's process ended of itself.
ENDS = ("end", "left")
# How the line begins that an attempt writes first.
START = b'{"event":"start"'


@dataclass(frozen=True, kw_only=True)
class Blame:
    """What becomes of the runs that are to do.

    Attributes:
      groups: What is executed one group after the other: first the runs without suspicion.
      died: Runs, by id, that killed their process, and how: recorded as failed, not tried.
      left_out: Runs that are recorded so already.
    """

    groups: Sequence[Sequence[Task]]
    died: dict[str, str]
    left_out: Sequence[Task]

    @property
    def sentence(self) -> str | None:
        """Which runs are left out; None if none are."""
        if not self.left_out:
            return None
        nums = ", ".join(str(task.job.num) for task in self.left_out)
        return f"left out, since they killed their process before: run {nums}; failure.retry=all tries them again"


@dataclass(frozen=True, kw_only=True)
class _Death:
    """What was going on when a process died, by ids, the proof of a crash, and whether memory was short."""

    runs: frozenset[str]
    programs: frozenset[str]
    proof: str | None
    starved: bool


@dataclass(kw_only=True)
class _Suspicion:
    num_deaths: int = 0
    num_alone: int = 0
    proof: str | None = None
    num_starved: int = 0


def of(plan: Plan, pending: Sequence[Task]) -> Blame:
    """Who is to blame among `pending` for what happened in earlier attempts at the sweep."""
    if not plan.folder.plan.exists():
        return Blame(groups=[pending], died={}, left_out=[])
    left_out = _recorded(plan, pending) if plan.retry is not Retry.all else []
    nums = {task.job.num for task in left_out}
    deaths = list(_deaths(plan.folder))
    tried: list[Task] = []
    suspects: list[Task] = []
    died: dict[str, str] = {}
    for task in pending:
        if task.job.num in nums:
            continue
        found = _suspicion(task, deaths) if task.state.value != Status.failed.value else _Suspicion()
        if reason := _reason(task, found):
            died[task.job.identity.run_id] = reason
        (suspects if found.num_deaths and not reason else tried).append(task)
    by_program = [list(group) for _, group in itertools.groupby(suspects, key=lambda task: task.program_key)]
    return Blame(groups=[tried, *by_program], died=died, left_out=left_out)


@contextlib.contextmanager
def proved(journal_path: Path) -> Iterator[None]:
    """Has a crash in native code inside leave its proof next to the journal, unless another handler has it."""
    path = _proof_path(journal_path)
    if faulthandler.is_enabled():
        yield
        return
    with open(path, "wb") as file:
        faulthandler.enable(file, all_threads=False)
        try:
            yield
        finally:
            faulthandler.disable()
    path.unlink(missing_ok=True)


def _reason(task: Task, found: _Suspicion) -> str | None:
    """Why the run is not tried again; None if it is."""
    if found.proof:
        return found.proof
    often = found.num_alone >= MANY_DEATHS or found.num_starved >= MANY_STARVED
    # A long run that goes on from its last step may well be stopped often.
    if not often or task.job.run.train.keeps_steps:
        return None
    why = "; memory was short" if found.num_starved else ""
    return f"its process was killed {found.num_alone} times while it was at this run{why}"


def _suspicion(task: Task, deaths: Sequence[_Death]) -> _Suspicion:
    found = _Suspicion()
    for death in deaths:
        of_run = task.job.identity.run_id in death.runs
        if of_run or task.job.identity.program_id in death.programs:
            found.num_deaths += 1
            found.num_alone += len(death.runs) <= 1
            if len(death.runs) == 1 or len(death.programs) == 1:  # else it may have been another one
                found.proof = found.proof or death.proof
                found.num_starved += death.starved
    return found


def _recorded(plan: Plan, pending: Sequence[Task]) -> list[Task]:
    """Those whose last end was that they killed their process."""
    failed = [task for task in pending if task.state.value == Status.failed.value]
    ends = {}
    for path in _journals(plan.folder) if failed else ():
        for event in journal.read_journal(path):
            if event["event"] in (Status.done.value, Status.failed.value):
                ends[event.get("run_id")] = str(event.get("error"))
    died = f"{FailureKind.died.value}: "
    return [task for task in failed if ends.get(task.job.identity.run_id, "").startswith(died)]


def _deaths(folder: SweepFolder) -> Iterator[_Death]:
    for path in _journals(folder):
        if not journal.is_held(path) and not _ended_at_once(path):
            attempts = list(_attempts(journal.read_journal(path)))
            for attempt, following in itertools.zip_longest(attempts, attempts[1:]):
                if not any(event["event"] in ENDS for event in attempt):
                    yield _death(attempt, following, path)


def _ended_at_once(path: Path) -> bool:
    """Whether a journal is of one attempt that ended of itself, as those of most jobs: the events tell no more."""
    try:
        lines = plain_files.read_bytes(path).splitlines()
        last = journal.from_line(lines[-1]) if lines else {}
    except (OSError, ValueError):
        return False
    return last.get("event") in ENDS and sum(line.startswith(START) for line in lines) == 1


def _death(attempt: Sequence[Event], following: Sequence[Event] | None, path: Path) -> _Death:
    marks = [event for event in attempt if event["event"] in ("begin", "executed")]
    runs = {marks[-1]["run_id"]} if marks and marks[-1]["event"] == "begin" else set()
    together = [event for event in attempt if event["event"] in ("train", "trained")]
    if runs and together and together[-1]["event"] == "train":
        runs = set(together[-1]["run_ids"])
    programs = {event["program_id"] for event in attempt if event["event"] == "compile"}
    programs -= {event["program_id"] for event in attempt if event["event"] == COMPILED}
    before = attempt[0].get("oom_kills")
    after = following[0].get("oom_kills") if following else memory.num_oom_kills()
    return _Death(
        runs=frozenset(runs),
        programs=frozenset() if runs else frozenset(programs),
        proof=None if following else _crash(path),
        starved=before is not None and after is not None and after > before,
    )


def _attempts(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    starts = [index for index, event in enumerate(events) if event["event"] == "start"]
    for start, end in itertools.pairwise([*starts, len(events)]):
        yield events[start:end]


def _crash(journal_path: Path) -> str | None:
    """What `faulthandler` wrote of the end of the journal's process."""
    try:
        lines = _proof_path(journal_path).read_text(errors="replace").splitlines()
    except OSError:
        return None
    return f"its process crashed in native code: {lines[0].removeprefix('Fatal Python error: ')}" if lines else None


def _proof_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.crash")


def _journals(folder: SweepFolder) -> list[Path]:
    jobs: list[Any] = [path for one in folder.submissions().values() for path in one.journals() if path != one.launcher]
    return [*jobs, folder.journal]
