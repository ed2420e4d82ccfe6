"""A search: trials asked of a study, run as a sweep whose plan grows, and told what came of them.

The study says what is to be tried, the sweep's folder what has been done. A trial that was asked for and not told when
a process ended is asked for again by the next one; its run, if that is there, is told and not done twice.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.config import schema
from runner.errors import ConfigError, StorageError, UserError, one_or_many
from runner.launch import sweeper
from runner.launch.process import PROCESS_WIDE
from runner.launch.search import objective, space, study
from runner.launch.search import plan as search_plan
from runner.launch.search.objective import Aim
from runner.launch.search.study import ANOTHER, Asked, Sampler, Study
from runner.records import metrics, store
from runner.records.journal import Journal, is_held
from runner.records.paths import SweepFolder
from runner.records.record import Record, Row, Status, Trial
from runner.sweep.execute import Growth, Outcome, Reporter
from runner.sweep.plan import FINISHED, Config, Plan, State, Task, given_variables, identify

# So many trials are looked at before a search is refused that can run none of them.
MAX_PROBES = 8


def search(
    context: Any, task_function: Any, config: Any, arguments: Sequence[str], *, sampler: Mapping[str, Any]
) -> Sequence[Row]:
    """Runs the search over the space of `arguments`, or goes on with it; the rows of its runs.

    Args:
      context: Hydra's.
      task_function: Ours.
      config: The config that the search began with.
      arguments: What was typed.
      sampler: `_target_` and arguments of a sampler of Optuna.

    Raises:
      UserError: A search that has no meaning, or a folder that can't be used; nothing was written.
    """
    application = sweeper.own(task_function)
    study.require()
    study.quiet()
    for key in ("zip", "exclude"):
        if config[key]:
            reason = "a search has no list of configs that this could be said of"
            raise ConfigError(key, str(config[key]), reason, f"{key}=[]")
    wanted = schema.search_from_config(config)
    axes, typed = space.parse(arguments, context.config_loader)
    for axis in axes:
        if axis.key in (*PROCESS_WIDE, *vars(wanted)):
            raise ConfigError(axis.key, axis.typed, "one value holds for a whole search", f"{axis.key}={axis.first}")
    aim = Aim(
        wanted=wanted,
        objective=metrics.find(str(wanted.objective), "objective"),
        axes=axes,
        fixed=tuple(text for text in typed if text.partition("=")[0] not in vars(wanted)),
        sampler=Sampler(
            target=str(sampler.get("_target_")),
            arguments={key: value for key, value in sampler.items() if key != "_target_"},
        ),
    )
    composer = sweeper.make_composer(context, config)
    execute, elsewhere = sweeper.executor(context, config, application)
    one = _Search(aim, compose=functools.partial(sweeper.compose_one, composer), execute=execute)
    return application.sweep(
        [one.reference()],
        functools.partial(sweeper.sweep_folder, config),
        elsewhere=elsewhere,
        execute=one.execute,
        make_plan=one.make_plan,
    )


class _Search:
    """A search, before it begins and while it goes on.

    Args:
      aim: What for.
      compose: Makes a config of overrides and a number, and `where` for errors.
      execute: Does what `runner.sweep.execute.execute` does.
    """

    def __init__(self, aim: Aim, *, compose: Callable[..., Config], execute: Callable[..., Outcome]) -> None:
        self._aim = aim
        self._compose = compose
        self._execute = execute

    def reference(self) -> Config:
        """The config where every axis has its first value.

        Raises:
          UserError: It has no meaning, or no such run has the objective.
        """
        config = self._config(0, [axis.override(axis.first) for axis in self._aim.axes])
        self._aim.objective.require(config.run)
        return config

    def make_plan(
        self,
        configs: Sequence[Config],
        place: Callable[[str], SweepFolder],
        refused: Sequence[tuple[str, UserError]] = (),
        *,
        origin: Mapping[str, Any],
        elsewhere: str | None = None,
    ) -> Plan:
        """What is there of the search; see `runner.planning.make_plan`. `configs` is `reference` alone.

        Raises:
          UserError: Another study is there, or none of the first trials can run.
        """
        self._elsewhere = elsewhere
        run = configs[0].run
        identity = identify(run, given_variables(run.variables), elsewhere=elsewhere)
        self._about = self._aim.about(configs[0], identity.run_id)
        folder = place(f"{run.layer.label}-study-{self._aim.digest(self._about)[:8]}")
        plan = search_plan.begin(folder, self._aim.data, origin=origin, elsewhere=elsewhere)
        if not folder.study.exists():
            return self._probed(plan)
        if is_held(folder.trials):
            what = f"{folder.path}: another process works on this study"
            raise StorageError(what, "wait for it, or sweep=another_name")
        with contextlib.closing(self._open(folder)) as there:
            if difference := objective.difference(there.about, self._about):
                raise StorageError(f"{folder.path} holds another study: {difference}", ANOTHER)
        return plan

    def execute(self, plan: Plan, *, reporter: Reporter, **known: Any) -> Outcome:
        """Asks, runs and tells until there are as many trials as were wanted; see `runner.sweep.execute.execute`."""
        self._plan = plan
        self._reporter = reporter
        store.make_sweep_folder(plan.folder)
        with (
            contextlib.closing(Journal(plan.folder.trials)) as self._journal,
            contextlib.closing(self._open(plan.folder)) as self._study,
        ):
            num_left = self._begin()
            growth = Growth(num_runs=num_left, longer=self._longer)
            outcome = self._execute(self._longer() or self._plan, reporter=reporter, growth=growth, **known)
            self._tell_what_ended()
        return outcome

    def _open(self, folder: SweepFolder | None) -> Study:
        path = folder.study if folder else None
        return Study(path, self._aim.axes, self._aim.wanted.direction, self._aim.sampler)

    def _config(self, number: int, overrides: Sequence[str]) -> Config:
        return self._compose((*self._aim.fixed, *overrides), number, where=" ".join(overrides))

    def _probed(self, plan: Plan) -> Plan:
        """`plan`, with the program of a first trial that can run; nothing is written, should there be none.

        Raises:
          UserError: There is none among the first.
        """
        errors = []
        with contextlib.closing(self._open(None)) as probe:
            for number in range(min(self._aim.wanted.n_trials, MAX_PROBES)):
                probe.ask(number)
                trial = probe.trials()[number]
                longer, (answer,) = self._lengthened(plan, [trial])
                if not isinstance(answer, UserError):
                    return replace(plan, drafts=longer.drafts)
                errors.append((" ".join(trial.overrides), answer))
                probe.fail(number, str(answer))
        raise one_or_many(errors, len(errors))

    def _begin(self) -> int:
        """Brings study, plan and `trials.jsonl` to one state; how many trials are left to be told."""
        self._study.keep(self._about)
        self._waiting: list[tuple[Asked, str]] = []
        ended = [trial for trial in self._study.trials() if trial.ended]
        written = {trial.number for trial in store.read_trials(self._plan.folder)}
        for trial in ended:
            if trial.number not in written:
                self._write(trial, value=trial.value, run_id=trial.run_id, error=trial.error)
        unfinished = {task.job.identity.run_id for task in self._plan.tasks if task.state not in FINISHED}
        self._lost = [trial for trial in ended if trial.run_id in unfinished]
        return max(self._aim.wanted.n_trials - len(ended), 0)

    def _longer(self) -> Plan | None:
        """The plan with what is asked for next, after what was asked for last has been told; None where that is all."""
        self._tell_what_ended()
        if self._waiting:
            return None  # its engine lost a run, and would lose it again
        while wanted := [*self._ask(), *self._lost]:
            self._lost = []
            self._plan, answers = self._lengthened(self._plan, wanted)
            for trial, answer in zip(wanted, answers, strict=True):
                if not trial.ended:
                    self._take(trial, answer)
            if self._plan.pending():
                return self._plan
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

    def _lengthened(self, plan: Plan, trials: Sequence[Asked]) -> tuple[Plan, list[str | UserError]]:
        """`plan` with runs for `trials`, and for each of these the id of its run, or why it can't run."""
        composed: list[Config | UserError] = []
        for trial in trials:
            try:
                composed.append(self._config(trial.number, trial.overrides))
            except UserError as error:
                composed.append(error)
        configs = [one for one in composed if isinstance(one, Config)]
        longer, answers = search_plan.longer(plan, configs, elsewhere=self._elsewhere)
        found = iter(answers)
        return longer, [next(found) if isinstance(one, Config) else one for one in composed]

    def _take(self, trial: Asked, answer: str | UserError) -> None:
        """Tells a trial whose answer is known; the others wait for their runs."""
        if isinstance(answer, UserError):
            self._fail(trial, None, answer.what)
            return
        self._study.note(trial.number, answer)
        task = self._task(answer)
        if task.state in FINISHED:
            self._tell(trial, store.read_record(task.folder))
        else:
            self._waiting.append((trial, answer))

    def _tell_what_ended(self) -> None:
        """Tells the trials whose runs have ended since the plan was made longer."""
        if not self._waiting:
            return
        news = store.read_news(self._plan.folder, self._plan.seen)
        ended = {event["run_id"]: State(event["event"]) for event in news if event["event"] in store.STATUSES}
        tasks = [replace(task, state=ended.get(task.job.identity.run_id, task.state)) for task in self._plan.tasks]
        self._plan = replace(self._plan, tasks=tasks)
        for trial, run_id in self._waiting:
            if run_id in ended:
                self._tell(trial, store.read_record(self._task(run_id).folder))
        self._waiting = [(trial, run_id) for trial, run_id in self._waiting if run_id not in ended]

    def _task(self, run_id: str) -> Task:
        return next(task for task in reversed(self._plan.tasks) if task.job.identity.run_id == run_id)

    def _tell(self, trial: Asked, record: Record) -> None:
        value = self._aim.objective.of(record) if record.status is Status.done else None
        if record.error is not None:
            self._fail(trial, record, f"{record.error.kind.value}: {record.error.message or record.error.type}")
        elif value is None or math.isnan(value):
            self._fail(trial, record, f"its record has no number {self._aim.objective.name}")
        else:
            self._study.tell(trial.number, value)
            self._write(trial, value=value, run_id=record.run_id)

    def _fail(self, trial: Asked, record: Record | None, error: str) -> None:
        self._study.fail(trial.number, error)
        self._write(trial, run_id=record.run_id if record else None, error=error)
        if record is None or record.error is None:  # that one was said when it happened
            self._reporter.warned(f"trial {trial.number} failed: {' '.join(trial.overrides)}: {error}")

    def _write(self, trial: Asked, **known: Any) -> None:
        """Says for views what was told."""
        told = Trial(number=trial.number, overrides=list(trial.overrides), **known)
        self._journal.append("told", **vars(told))
