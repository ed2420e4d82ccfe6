"""What a Hydra command line runs: overrides in, files and a table out, and an exit code.

The sweeper hands over all its configs together; another program's sweeper or launcher calls the task function with one.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import operator
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config import schema
from runner.errors import ConfigError, UserError, literal, one_or_many
from runner.records import paths
from runner.records.paths import SweepFolder

if TYPE_CHECKING:
    from runner.config.composed import Config
    from runner.config.train_settings import CheckpointSettings
    from runner.records.row import Row
    from runner.sweep.execute import Outcome
    from runner.sweep.plan import Plan

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

# A table with so many seeds is better read as one row for all of them.
MANY_SEEDS = 5

# Set once for the process, so all configs of a sweep agree on them.
PROCESS_WIDE = (
    "num_cpu_devices",
    "compilation_cache",
    "workers",
    "output_root",
    "sweep",
    "on_failure",
    "max_failures",
    "retry",
    "zip",
    "exclude",
    "checkpoint.keep",
    "checkpoint.metric",
    "checkpoint.mode",
)


class RunFailed(Exception):
    """A run failed; tells another program's sweeper."""


class Application:
    """The task function of `hydra.main`, and what became of it.

    Args:
      words: The command line, kept in the plan for `resume`.
      task: `run`; or `plan` or `check`, which write nothing.
      as_json: Whether `check` answers in JSON.

    Attributes:
      exit_code: 0, 1 where a run failed, 130 where the sweep was interrupted.
      error: The user's mistake that a single run ended with; raised through Hydra it would print a traceback.
    """

    def __init__(self, words: Sequence[str] = (), *, task: str = "run", as_json: bool = False) -> None:
        self._origin = {"command": list(words), "cwd": str(Path.cwd())}
        self._task = task
        self._as_json = as_json
        self.exit_code = 0
        self.error: UserError | None = None

    @property
    def runs(self) -> bool:
        """Whether anything is to be run, rather than planned or checked."""
        return self._task == "run"

    @property
    def checks(self) -> bool:
        """Whether the claims are to be judged and nothing else is to be done."""
        return self._task == "check"

    def __call__(self, config: Any) -> float | None:
        """Runs one composed config.

        Returns:
          Median apply time in seconds, for sweepers that look for the best; None where nothing was timed.

        Raises:
          RunFailed: The run failed, and another program's sweeper or launcher wants to know.
        """
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        alone = hydra.mode is RunMode.RUN
        try:
            rows = self.sweep([_composed(config)], functools.partial(_job_folder, hydra, config))
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
        elsewhere: str | None = None,
        execute: Callable[..., Outcome] | None = None,
        make_plan: Callable[..., Plan] | None = None,
    ) -> Sequence[Row]:
        """Runs what is missing of `configs` and shows the results.

        Args:
          configs: At least one.
          place: The sweep's folder, given the name that the plan suggests.
          refused: Where and why other configs of the sweep have no meaning.
          elsewhere: Where other machines do the work, the platform that `device=auto` means there.
          execute: Does what `runner.sweep.execute.execute` does, by other means.
          make_plan: Does what `runner.planning.make_plan` does, where `configs` are not all there is.

        Returns:
          A row for every run, also for those done before; none in a process that only follows the first.

        Raises:
          UserError: A config that can't run, or a folder that can't be used; nothing was written.
        """
        if not configs:
            raise one_or_many(refused, len(refused))
        _require_together(configs, self._task, by_jobs=execute is not None)
        prepare_process(configs, elsewhere=elsewhere is not None)
        from runner.commands import check
        from runner.experiment import distributed
        from runner.records import find
        from runner.report.terminal import Terminal, describe_plan
        from runner.sweep import execute as sweep_execute
        from runner.sweep import followers
        from runner.sweep import plan as sweep_plan
        from runner.timing import machine
        from runner.tracking import pool

        if self.checks:
            self.exit_code = check.check(configs, refused, as_json=self._as_json)
            return []
        planned = functools.partial(
            make_plan or sweep_plan.make_plan,
            configs,
            lambda name: SweepFolder(place(name)),
            refused,
            origin=self._origin,
            elsewhere=elsewhere,
        )
        plan = planned() if distributed.count() == 1 else followers.agree(planned)
        if self._task == "plan":
            with Terminal() as terminal:
                for line in describe_plan(plan, find.read_trials(plan.folder)):
                    terminal.line(line)
            return []
        pool.require(configs[0].run.tracking)
        if distributed.index() > 0:
            self.exit_code = followers.follow(plan)
            done = "failed" if self.exit_code else "done"
            Terminal().line(
                f"process {distributed.index()} of {distributed.count()}: {done}; process 0 writes the record"
            )
            return []
        with Terminal() as terminal, interrupts(terminal.warned) as stop:
            make_tracking = functools.partial(
                pool.make_tracking,
                configs[0].run.tracking,
                plan.folder.path,
                plan.folder.name,
                terminal.warned,
                num_processes=machine.num_cores(),
            )
            outcome = (execute or sweep_execute.execute)(plan, tracking=make_tracking, reporter=terminal, stop=stop)
            rows = find.read_rows(plan.folder)
            terminal.results([row for row in rows if row.status in find.STATUSES])
            for line in _summary(plan, outcome, rows, keep=configs[0].run.checkpoint):
                terminal.line(line)
        self.exit_code = _exit_code(outcome, rows)
        return rows


def prepare_process(configs: Sequence[Config], *, elsewhere: bool = False) -> None:
    """Sets what is process-wide: JAX's devices and cache, and that libraries log errors only.

    Args:
      configs: Of the sweep.
      elsewhere: Whether the work is done by other processes, so that this one takes no card.

    Raises:
      ConfigError: Configs that disagree on it, or JAX that already runs otherwise.
    """
    first = configs[0].run
    for key in PROCESS_WIDE:
        values = list(dict.fromkeys(literal(operator.attrgetter(key)(config.run)) for config in configs))
        if len(values) > 1:
            raise ConfigError(key, ",".join(values), "one value holds for a whole sweep", f"{key}={values[0]}")
    quiet_libraries()
    from runner.arrays import devices
    from runner.experiment import distributed
    from runner.report.terminal import Terminal

    if elsewhere:
        devices.keep_to_cpu()
    devices.prepare_process(first.num_cpu_devices, first.compilation_cache)
    distributed.start(first.distributed, Terminal().warned)


def _require_together(configs: Sequence[Config], task: str, *, by_jobs: bool) -> None:
    """Judges whether several processes can do what is asked.

    Raises:
      ConfigError: They make one run, started by whoever starts them, and nothing else.
    """
    from runner.config.enums import DistributedMode

    if all(config.run.distributed.mode is DistributedMode.none for config in configs):
        return
    if task != "run":
        reason = f"{task} asks one process"
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


def leave(code: int, error: BaseException | None = None) -> None:
    """Ends this process at once if others belong to it and something went wrong; see `processes.leave`."""
    if "runner.experiment.distributed" in sys.modules:
        from runner.experiment import distributed

        distributed.leave(code, error)


def quiet_libraries() -> None:
    """Keeps off the terminal what libraries log beside the errors that they raise."""
    # Orbax warns of every save that it has no OCDBT to merge, and logs what it raises; so does jax with callbacks.
    for name in ("absl", "concurrent.futures", "jax._src.callback"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _say_unraisable


def _say_unraisable(one: sys.UnraisableHookArgs) -> None:
    """Says what nobody could be told of, but for other writes of a save that failed: Orbax waits for none of them."""
    if str(one.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(one)


@contextlib.contextmanager
def interrupts(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C or SIGTERM once: the answer turns True. Ctrl-C again: KeyboardInterrupt.

    Args:
      say: Takes one line.
    """
    asked: list[int] = []

    def handle(number: int, _: Any) -> None:
        asked.append(number)
        if len(asked) > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt
        say("stopping after the current run; Ctrl-C again stops now. The same command goes on later.")

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: another program's launcher decides
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _composed(config: Any) -> Config:
    """One config that Hydra has composed, with the files that it would leave beside the job."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from runner.config import compose, env_secrets
    from runner.config.composed import Config

    hydra = OmegaConf.create({"hydra": HydraConfig.get()})
    typed = OmegaConf.to_container(hydra.hydra.overrides.task)
    assert isinstance(typed, list)
    overrides = [str(item) for item in typed]
    run = schema.from_config(config)
    return Config(
        run=run,
        overrides=tuple(overrides),
        hydra_files=lambda num: compose.hydra_files(config, hydra, overrides),
        redaction=env_secrets.of_config(compose.plain(config)),
    )


def _job_folder(hydra: Any, config: Any, name: str) -> Path:
    """Where a single run goes: a folder of its own, by the time, or the one that `sweep` or `hydra.run.dir` names."""
    from hydra.types import RunMode

    output_dir = Path(hydra.runtime.output_dir)
    if hydra.mode is not RunMode.RUN or output_dir != Path(os.getcwd()):
        return output_dir
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    return Path(os.path.expanduser(config.output_root)) / (config.sweep or f"{stamp}_{name.rpartition('-')[0]}")


def _summary(plan: Plan, outcome: Outcome, rows: Sequence[Row], *, keep: CheckpointSettings) -> list[str]:
    """How a sweep ended, where its files are, and what to type next."""
    from runner.records.record import Status
    from runner.report import aggregate

    folder = paths.shown(plan.folder.path)
    num_done = sum(row.status == Status.done.value for row in rows)
    num_failed = sum(row.status == Status.failed.value for row in rows)
    lines = [f"{num_done} of {len(rows)} runs done" + (f", {num_failed} failed" if num_failed else "")]
    if outcome.interrupted or outcome.stopped:
        lines[0] += f"; stopped by {outcome.stopped or 'you'}"
    if num_missing := len(rows) - num_done - num_failed:
        lines[0] += "" if outcome.interrupted or outcome.stopped else f", {num_missing} missing"
        lines.append("  go on       the same command again")
    if plan.study is None and any(task.state.value == "stale" for task in plan.tasks):
        lines.append("  stale       done by other software; do them again with retry=all")
    lines += [f"  {line}" for line in _searched(plan.folder)] if plan.study is not None else []
    lines.append(f"  records     {folder}/runs/*/record.json")
    if plan.folder.results.exists():
        lines.append(f"  results     {folder}/{plan.folder.results.name}")
    if plan.folder.report.exists():
        lines.append(f"  report      {folder}/{plan.folder.report.name}")
    if len({row.settings.get("seed") for row in rows}) >= MANY_SEEDS:
        lines.append(f"  over seeds  bridge-runner ls {folder} --by {aggregate.suggest(rows)}")
    if plan.folder.checks.exists():
        lines.append(f"  claims      {folder}/{plan.folder.checks.name}")
    num_kept = sum(row.checkpoint_bytes is not None for row in rows)
    if num_kept:
        kept = "" if keep.num_kept is None else f", {num_kept} of {num_done} kept: {keep.sentence}"
        lines.append(f"  checkpoints {folder}/runs/*/checkpoint  (plain Orbax{kept})")
    if any(plan.folder.submissions()):
        lines.append(f"  jobs        {folder}/{plan.folder.jobs.name}")
    lines += _tracked(plan.folder, folder)
    return lines


def _searched(folder: SweepFolder) -> list[str]:
    """What has come of a search."""
    from runner.records import find, store
    from runner.report.terminal import describe_study

    return describe_study(store.read_plan(folder), find.read_trials(folder))


def _tracked(folder: SweepFolder, shown: str) -> list[str]:
    """Where the runs can be looked at, and what sends those to W&B that are not there."""
    from runner.tracking import wandb_files

    found = wandb_files.find_offline_runs(folder.wandb)
    sent = wandb_files.read_sent(folder.wandb)
    urls = [sent[path.name] for path in found.values() if path.name in sent]
    lines = [f"  look        wandb leet {shown}/{folder.wandb.name}"] if found else []
    lines += [f"  online      {urls[-1].partition('/runs/')[0]}"] if urls else []
    lines += [f"  send        bridge-runner sync {shown}  (or wandb sync)"] if len(urls) < len(found) else []
    if folder.tensorboard.exists():
        lines.append(f"  look        tensorboard --logdir {shown}/{folder.tensorboard.name}")
    return lines


def _exit_code(outcome: Outcome, rows: Sequence[Row]) -> int:
    from runner.records.record import Status

    if outcome.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if any(row.status != Status.done.value for row in rows) else 0
