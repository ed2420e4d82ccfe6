"""The Hydra application: overrides in; files, a table and an exit code out.

The sweeper hands over all its configs together; another program's sweeper or launcher calls the task function with one.
What to do with them is an `Act`: `RUN` here, and the read-only ones in `runner.commands`.
"""

from __future__ import annotations

import datetime
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config import schema
from runner.errors import ConfigError, UserError, one_or_many
from runner.launch.process import prepare_process
from runner.records.paths import SweepFolder

if TYPE_CHECKING:
    from runner.config.composing.composed import Config
    from runner.config.settings.run import Run
    from runner.records.row import Row
    from runner.sweep.plan import Plan
    from runner.sweep.reporter import SweepOutcome

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


class RunFailed(Exception):
    """Signals a failed run to a third-party sweeper."""


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """What one command line requests.

    Attributes:
      configs: At least one.
      place: The sweep's folder, given the name that the plan suggests.
      invalid: Where and why other configs of the sweep are invalid.
      origin: The command line and its working directory, stored in the plan for `resume`.
      remote_platform: The platform that `device=auto` means on other machines, if those do the work.
      execute: Replaces `runner.sweep.execute.execute`.
      make_plan: Replaces `runner.sweep.plan.make_plan`, if there is more than `configs`.
      verify: Whether finished runs that are not what their records say are redone.
    """

    configs: Sequence[Config]
    place: Callable[[str], Path]
    invalid: Sequence[tuple[str, UserError]] = ()
    origin: Mapping[str, Any]
    remote_platform: str | None = None
    execute: Callable[..., SweepOutcome] | None = None
    make_plan: Callable[..., Plan] | None = None
    verify: bool = False

    def plan(self) -> Plan:
        """The plan of the sweep; every process of a distributed run gets the same.

        Raises:
          UserError: A config that can't run, or a folder that can't be used.
        """
        from runner.experiment import distributed
        from runner.sweep import followers, intact
        from runner.sweep import plan as sweep_plan

        planned = functools.partial(
            self.make_plan or sweep_plan.make_plan,
            self.configs,
            lambda name: SweepFolder(self.place(name)),
            self.invalid,
            origin=self.origin,
            remote_platform=self.remote_platform,
        )
        checked = (lambda: intact.with_damage(planned())) if self.verify else planned
        return checked() if distributed.count() == 1 else followers.agree(checked)


@dataclass(frozen=True)
class SweepResult:
    """The outcome of a request.

    Attributes:
      exit_code: 0, 1 if something failed, 130 if the sweep was interrupted.
      rows: A row for every run, including earlier ones; none if nothing was run.
    """

    exit_code: int = 0
    rows: Sequence[Row] = ()


@dataclass(frozen=True)
class Act:
    """What to do with the configs of a command line.

    Attributes:
      name: Its name in messages.
      do: Does it.
      runs: Whether it runs and writes anything.
      timed: Whether it shows how long compiling takes; if not, compiled programs are kept for the next time.
    """

    name: str
    do: Callable[[SweepRequest], SweepResult]
    runs: bool = False
    timed: bool = True


def run_sweep(request: SweepRequest) -> SweepResult:
    """Runs what is missing from a sweep and shows the results.

    Raises:
      UserError: A config that can't run, or a folder that can't be used; nothing was written.
    """
    from runner.experiment import distributed
    from runner.tracking import registry

    plan = request.plan()
    registry.require(request.configs[0].run.tracking)
    return _execute(request, plan) if distributed.index() == 0 else _follow(plan)


RUN = Act("run", run_sweep, runs=True)


class Application:
    """The task function of `hydra.main`, and its outcome.

    Args:
      words: The command line, stored in the plan for `resume`.
      act: What is done with the configs.
      admit: Called with the settings of every composed config before anything is imported for it; may raise UserError.

    Attributes:
      act: What is done with the configs.
      exit_code: 0, 1 if a run failed, 130 if the sweep was interrupted.
      error: The user error that ended a single run; raised through Hydra it would print a traceback.
    """

    def __init__(
        self, words: Sequence[str] = (), act: Act = RUN, admit: Callable[[Run], None] = lambda run: None
    ) -> None:
        self._origin = {"command": list(words), "cwd": str(Path.cwd())}
        self.act = act
        self.admit = admit
        self.exit_code = 0
        self.error: UserError | None = None

    def __call__(self, config: Any) -> float | None:
        """Runs one composed config.

        Returns:
          Median apply time in seconds, for optimizing sweepers; None if nothing was timed.

        Raises:
          RunFailed: The run failed, and a third-party sweeper or launcher needs to know.
        """
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from runner.launch import loading
        from runner.launch.hydra_settings import require_meaning

        loading.load()
        hydra = HydraConfig.get()
        alone = hydra.mode is RunMode.RUN
        try:
            require_meaning(hydra)
            composed = _composed(config)
            self.admit(composed.run)
            rows = self.sweep([composed], functools.partial(_job_folder, hydra, config))
        except UserError as error:
            if not alone:
                raise
            self.error = error
            return None
        if not rows:
            return None
        (row,) = rows
        if self.exit_code and not alone:
            raise RunFailed(row.error or f"the run is {row.status}")
        return row.apply_s

    def sweep(
        self,
        configs: Sequence[Config],
        place: Callable[[str], Path],
        refused: Sequence[tuple[str, UserError]] = (),
        *,
        remote_platform: str | None = None,
        execute: Callable[..., SweepOutcome] | None = None,
        make_plan: Callable[..., Plan] | None = None,
    ) -> Sequence[Row]:
        """Applies the act to `configs`; see `SweepRequest` for the arguments.

        Returns:
          A row for every run, including earlier ones; none in a process other than the first.

        Raises:
          UserError: A config that can't run, or a folder that can't be used; nothing was written.
        """
        if not configs:
            raise one_or_many(refused, len(refused))
        _require_together(configs, self.act, by_jobs=execute is not None)
        prepare_process(configs, remote=remote_platform is not None, timed=self.act.timed)
        request = SweepRequest(
            configs=configs,
            place=place,
            invalid=refused,
            origin=self._origin,
            remote_platform=remote_platform,
            execute=execute,
            make_plan=make_plan,
        )
        result = self.act.do(request)
        self.exit_code = result.exit_code
        return result.rows


def _execute(request: SweepRequest, plan: Plan) -> SweepResult:
    from runner.launch.closing_lines import closing_lines
    from runner.launch.process import interrupts
    from runner.records import find
    from runner.records.codec import growing
    from runner.report.terminal import Terminal
    from runner.sweep import execute as sweep_execute
    from runner.timing.turns import Turns
    from runner.tracking import pool

    Turns().require()
    first = request.configs[0].run
    with Terminal() as terminal, interrupts(terminal.warned) as stop:
        folder = plan.folder
        make_tracking = functools.partial(
            pool.make_tracking, request.configs[0].tracking, folder.path, folder.name, terminal.warned
        )
        execute = request.execute or sweep_execute.execute
        outcome = execute(plan, tracking=make_tracking, reporter=terminal, stop=stop)
        with growing():
            rows = find.read_rows(folder)
            there = [row for row in rows if row.status in find.STATUSES]
            axes = terminal.results(there)
            keys = list(axes) if len(there) == len(rows) else None
            for line in closing_lines(plan, outcome, rows, keep=first.checkpoint, keys=keys):
                terminal.line(line)
    return SweepResult(_exit_code(outcome, rows), rows)


def _follow(plan: Plan) -> SweepResult:
    """Computes along with process 0, which writes the record."""
    from runner.experiment import distributed
    from runner.report.terminal import Terminal
    from runner.sweep import followers

    exit_code = followers.follow(plan)
    done = "failed" if exit_code else "done"
    Terminal().line(f"process {distributed.index()} of {distributed.count()}: {done}; process 0 writes the record")
    return SweepResult(exit_code)


def _require_together(configs: Sequence[Config], act: Act, *, by_jobs: bool) -> None:
    """Validates that several processes can do what is requested.

    Raises:
      ConfigError: They can do a single run, started by an external launcher, and nothing else.
    """
    from runner.config.enums import DistributedMode

    if all(config.run.distributed.mode is DistributedMode.none for config in configs):
        return
    if not act.runs:
        reason = f"{act.name} asks one process"
        raise ConfigError("distributed", "jax", reason, "the same without distributed, and all devices in one process")
    if len(configs) > 1:
        reason = f"the processes make one run together, and these are {len(configs)}"
        raise ConfigError("distributed", "jax", reason, "one command after the other, or a sweep in one process")
    if configs[0].run.train.keeps_steps:
        reason = "steps are kept by one process"
        raise ConfigError("train.save_every", configs[0].run.train.save_every, reason, "train.save_every=0")
    if by_jobs:
        reason = "a launcher's job is one process"
        raise ConfigError("distributed", "jax", reason, "the same command in every process, without hydra/launcher")


def _composed(config: Any) -> Config:
    """One config that Hydra has composed, with the files that it would write for the job."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from runner.config import env_secrets
    from runner.config.composing import compose
    from runner.config.composing.composed import Config
    from runner.config.composing.overrides import plain
    from runner.config.serialize import to_data

    hydra = OmegaConf.create({"hydra": HydraConfig.get()})
    typed = OmegaConf.to_container(hydra.hydra.overrides.task)
    assert isinstance(typed, list)
    overrides = [str(item) for item in typed]
    run = schema.from_config(config)
    found = env_secrets.of_config(plain(config))
    env_secrets.require_no_names(found, to_data(run))
    return Config(
        run=run,
        overrides=tuple(overrides),
        hydra_files=lambda num: compose.hydra_files(config, hydra, overrides),
        redaction=found,
    )


def _job_folder(hydra: Any, config: Any, name: str) -> Path:
    """Where a single run goes: a new folder named by the time, or the one set by `sweep` or `hydra.run.dir`."""
    from hydra.types import RunMode

    output_dir = Path(hydra.runtime.output_dir)
    require_open_folder(hydra, "run")
    if hydra.mode is not RunMode.RUN or output_dir != Path(os.getcwd()):
        return output_dir
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    return Path(os.path.expanduser(config.output_root)) / (config.sweep or f"{stamp}_{name.rpartition('-')[0]}")


def require_open_folder(hydra: Any, mode: str) -> None:
    """Checks that Hydra's folder for a `run` or a `sweep` is not named by a value from the environment.

    Raises:
      ConfigError: It is.
    """
    from omegaconf import OmegaConf

    from runner.config import env_secrets

    key, node = f"hydra.{mode}.dir", hydra[mode]
    written = OmegaConf.to_container(node, resolve=False)
    assert isinstance(written, dict)
    env_secrets.of_config({key: written["dir"]}).require_no_name(key, str(node.dir), path=True)


def _exit_code(outcome: SweepOutcome, rows: Sequence[Row]) -> int:
    from runner.records.record import Status

    if outcome.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if any(row.status != Status.done.value for row in rows) else 0
