"""Ask-and-tell loop: asks a study for trials, runs them as a sweep whose plan grows, and tells their results.

The study says what is to be tried, the sweep's folder what has been done. A trial that was asked for and not told when
a process ended is asked for again by the next one; its run, if that is there, is told and not done twice.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.config import schema
from runner.config.composing.composed import Config
from runner.errors import ConfigError, StorageError, UserError, one_or_many
from runner.launch import hydra_settings, sweeper
from runner.launch.process import PROCESS_WIDE
from runner.launch.search import objective, space, study
from runner.launch.search import plan as search_plan
from runner.launch.search.objective import Aim
from runner.launch.search.sampler import Sampler
from runner.launch.search.study import ANOTHER, Asked, Study
from runner.launch.search.tell import Teller
from runner.launch.search.trials import Trials
from runner.records import metrics
from runner.records.disk import files, plain_files
from runner.records.journal import Journal, is_held
from runner.records.paths import SweepFolder
from runner.records.row import Row
from runner.sweep.initial_variables import read_initial_variables
from runner.sweep.plan import Growth, Plan
from runner.sweep.reporter import Reporter, SweepOutcome
from runner.sweep.validate import identify

# A search is rejected if none of this many first trials can run.
MAX_PROBES = 8

# What the settings of the search itself begin with.
SEARCH = "search."


def search(
    context: Any, task_function: Any, config: Any, arguments: Sequence[str], *, sampler: Mapping[str, Any]
) -> Sequence[Row]:
    """Starts or continues the search over the space in `arguments`; returns the rows of its runs.

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
    hydra_settings.require_meaning(config.hydra)
    study.require()
    study.quiet()
    for key in ("zip", "exclude"):
        if config.grid[key]:
            reason = "a search has no list of configs that this could be said of"
            raise ConfigError(f"grid.{key}", str(config.grid[key]), reason, f"grid.{key}=[]")
    wanted = schema.search_from_config(config)
    axes, typed = space.parse(arguments, context.config_loader)
    for axis in axes:
        if axis.key in PROCESS_WIDE or axis.key.startswith(SEARCH):
            raise ConfigError(axis.key, axis.typed, "one value holds for a whole search", f"{axis.key}={axis.first}")
    aim = Aim(
        wanted=wanted,
        objective=metrics.find(str(wanted.objective), "search.objective"),
        axes=axes,
        fixed=tuple(text for text in typed if not text.startswith(SEARCH)),
        sampler=Sampler(
            target=str(sampler.get("_target_")),
            arguments={key: value for key, value in sampler.items() if key != "_target_"},
        ),
    )
    composer = sweeper.make_composer(context, config)
    execute, remote_platform = sweeper.executor(context, config, application)

    def compose(*known: Any, where: str) -> Config:
        config = sweeper.compose_one(composer, *known, where=where)
        application.admit(config.run)
        return config

    one = _Search(aim, compose=compose, execute=execute)
    return application.sweep(
        [one.reference()],
        functools.partial(sweeper.sweep_folder, config),
        remote_platform=remote_platform,
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

    def __init__(self, aim: Aim, *, compose: Callable[..., Config], execute: Callable[..., SweepOutcome]) -> None:
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
        remote_platform: str | None = None,
    ) -> Plan:
        """What is there of the search; see `runner.sweep.plan.make_plan`. `configs` is `reference` alone.

        Raises:
          UserError: Another study is there, or none of the first trials can run.
        """
        self._remote_platform = remote_platform
        run = configs[0].run
        identity = identify(run, read_initial_variables(run.variables), remote_platform=remote_platform)
        self._about = self._aim.about(configs[0], identity.run_id)
        folder = place(f"{run.layer.label}-study-{self._aim.digest(self._about)[:8]}")
        plan = search_plan.begin(folder, self._aim.data, origin=origin, remote_platform=remote_platform)
        if not folder.study.exists():
            return self._probed(plan)
        if is_held(folder.trials):
            what = f"{folder.path}: another process works on this study"
            raise StorageError(what, "wait for it, or sweep=another_name")
        with contextlib.closing(self._open(folder)) as there:
            if difference := objective.difference(there.about, self._about):
                raise StorageError(f"{folder.path} holds another study: {difference}", ANOTHER)
        return plan

    def execute(self, plan: Plan, *, reporter: Reporter, **known: Any) -> SweepOutcome:
        """Asks, runs and tells until there are as many trials as were wanted; see `runner.sweep.execute.execute`."""
        files.make_sweep_folder(plan.folder)
        with (
            contextlib.closing(Journal(plan.folder.trials)) as journal,
            contextlib.closing(self._open(plan.folder)) as study,
        ):
            study.keep(self._about)
            teller = Teller(study, journal, self._aim.objective, reporter)
            trials = Trials(self._aim, plan, study, teller=teller, reporter=reporter, lengthen=self._lengthened)
            growth = Growth(num_runs=trials.begin(), longer=trials.longer)
            outcome = self._execute(trials.longer() or trials.plan, reporter=reporter, growth=growth, **known)
            trials.tell_what_ended()
        return outcome

    def _open(self, folder: SweepFolder | None) -> Study:
        path = folder.study if folder else None
        if path is not None:
            plain_files.require_regular(path)
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

    def _lengthened(self, plan: Plan, trials: Sequence[Asked]) -> tuple[Plan, list[str | UserError]]:
        """`plan` with runs for `trials`, and for each of these the id of its run, or why it can't run."""
        composed: list[Config | UserError] = []
        for trial in trials:
            try:
                composed.append(self._config(trial.number, trial.overrides))
            except UserError as error:
                composed.append(error)
        configs = [one for one in composed if isinstance(one, Config)]
        longer, answers = search_plan.longer(plan, configs, remote_platform=self._remote_platform)
        found = iter(answers)
        return longer, [next(found) if isinstance(one, Config) else one for one in composed]
