"""The trials of a search: asked from a study, turned into runs of a growing plan, and told once these have ended."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace

from runner.errors import StorageError, UserError
from runner.launch.search.objective import Aim
from runner.launch.search.study import Asked, Study
from runner.launch.search.tell import Teller
from runner.records import find, store
from runner.records.row import Trial
from runner.sweep.plan import Plan, Task
from runner.sweep.reporter import Reporter
from runner.sweep.run_state import FINISHED, State

# A plan with runs for trials, and for each of these the id of its run, or why it can't run.
Lengthen = Callable[[Plan, Sequence[Asked]], tuple[Plan, list[str | UserError]]]


class Trials:
    """The trials of a search under way.

    Args:
      aim: What the search is for.
      plan: What is there of it.
      study: What is asked and told.
      teller: Tells it.
      reporter: Told where the sampler has nothing left to ask for.
      lengthen: Makes a plan longer.
    """

    def __init__(
        self, aim: Aim, plan: Plan, study: Study, *, teller: Teller, reporter: Reporter, lengthen: Lengthen
    ) -> None:
        self.plan = plan
        self._aim = aim
        self._study = study
        self._teller = teller
        self._reporter = reporter
        self._lengthen = lengthen
        self._waiting: list[tuple[Asked, str]] = []
        self._lost: list[Asked] = []

    def begin(self) -> int:
        """Brings study, plan and `trials.jsonl` to one state; how many trials are left to be told.

        Raises:
          StorageError: The study, which has no digests, differs from the sealed lines and records.
        """
        trials = self._study.trials()
        ended = [trial for trial in trials if trial.ended]
        written = {trial.number: trial for trial in find.read_trials(self.plan.folder)}
        if [trial.number for trial in trials] != list(range(len(trials))):
            raise self._other("the numbers of its trials have gaps")
        for trial in ended:
            if trial.number in written:
                self._require_written(trial, written[trial.number])
            else:
                self._require_recorded(trial)
                self._teller.write(trial, value=trial.value, run_id=trial.run_id, error=trial.error)
        unfinished = {task.job.identity.run_id for task in self.plan.tasks if task.state not in FINISHED}
        self._lost = [trial for trial in ended if trial.run_id in unfinished]
        return max(self._aim.wanted.n_trials - len(ended), 0)

    def _require_written(self, trial: Asked, line: Trial) -> None:
        """Checks an ended trial against its line."""
        pairs = {
            "overrides": (list(trial.overrides), line.overrides),
            self._aim.objective.name: (trial.value, line.value),
            "run": (trial.run_id if trial.value is not None else line.run_id, line.run_id),
        }
        for name, (here, there) in pairs.items():
            if here != there:
                line_of = f"its line in {self.plan.folder.trials.name}"
                raise self._other(f"trial {trial.number} has {name} {here}, and {line_of} {there}")

    def _require_recorded(self, trial: Asked) -> None:
        """Checks an ended trial that has no line, since its process was killed, against the record of its run."""
        if trial.run_id is None:
            return
        tasks = {task.job.identity.run_id: task for task in self.plan.tasks}
        self.plan, (answer,) = self._lengthen(self.plan, [trial])
        if trial.run_id not in tasks or answer != trial.run_id:
            raise self._other(f"trial {trial.number} is none of the runs of this sweep")
        task = tasks[trial.run_id]
        if task.state in FINISHED and (value := self._teller.value(store.read_record(task.folder))) != trial.value:
            raise self._other(f"trial {trial.number} has {trial.value}, and the record of its run {value}")

    def _other(self, what: str) -> StorageError:
        path = self.plan.folder.study
        again = f"rm {shlex.quote(str(path))}, then the same search again: its runs are kept"
        return StorageError(f"{path} is damaged: {what}", again)

    def longer(self) -> Plan | None:
        """The plan with what is asked for next, after what was asked for last has been told; None where that is all."""
        self.tell_what_ended()
        if self._waiting:
            return None  # its engine lost a run, and would lose it again
        while wanted := [*self._ask(), *self._lost]:
            self._lost = []
            self.plan, answers = self._lengthen(self.plan, wanted)
            for trial, answer in zip(wanted, answers, strict=True):
                if not trial.ended:
                    self._take(trial, answer)
            if self.plan.pending():
                return self.plan
        return None

    def _ask(self) -> list[Asked]:
        """Trials that have not been told: those that were left, and new ones until there are `n_jobs` together.

        Batches end at multiples of `n_jobs`: so a search that goes on asks what it would have asked had it not been
        stopped, knowing as much.
        """
        trials = self._study.trials()
        n_jobs = self._aim.wanted.n_jobs
        num_open = sum(not trial.ended for trial in trials)
        full = math.ceil((len(trials) + (not num_open)) / n_jobs) * n_jobs
        new = range(len(trials), min(full, self._aim.wanted.n_trials))
        if new and self._study.exhausted:
            self._reporter.warned(f"{self._aim.sampler.label} has asked for all there is: {len(trials)} trials")
            new = range(0)
        for number in new:
            self._study.ask(number)
        return [trial for trial in self._study.trials() if not trial.ended]

    def _take(self, trial: Asked, answer: str | UserError) -> None:
        """Tells a trial whose answer is known; the others wait for their runs."""
        if isinstance(answer, UserError):
            self._teller.fail(trial, None, answer.what)
            return
        self._study.note(trial.number, answer)
        task = self._task(answer)
        if task.state in FINISHED:
            self._teller.tell(trial, store.read_record(task.folder))
        else:
            self._waiting.append((trial, answer))

    def tell_what_ended(self) -> None:
        """Tells the trials whose runs have ended since the plan was made longer."""
        if not self._waiting:
            return
        news = store.read_news(self.plan.folder, self.plan.seen)
        ended = {event["run_id"]: State(event["event"]) for event in news if event["event"] in find.STATUSES}
        tasks = [replace(task, state=ended.get(task.job.identity.run_id, task.state)) for task in self.plan.tasks]
        self.plan = replace(self.plan, tasks=tasks)
        for trial, run_id in self._waiting:
            if run_id in ended:
                self._teller.tell(trial, store.read_record(self._task(run_id).folder))
        self._waiting = [(trial, run_id) for trial, run_id in self._waiting if run_id not in ended]

    def _task(self, run_id: str) -> Task:
        return next(task for task in reversed(self.plan.tasks) if task.job.identity.run_id == run_id)
