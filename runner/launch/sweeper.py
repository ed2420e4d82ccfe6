"""Implements our Hydra plugins: turns the sweeper's arguments into configs, and any sweeper's jobs into runs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from runner.config import dotted_keys, serialize
from runner.config.composing import zip_exclude
from runner.config.composing.compose import Composer
from runner.config.composing.composed import Config
from runner.config.composing.overrides import expand
from runner.config.explain import explain, is_hydra_error
from runner.config.settings.run import family
from runner.errors import UserError, one_or_many
from runner.launch import hydra_settings, loading
from runner.launch.application import Application, RunFailed, require_open_folder
from runner.records.codec import growing
from runner.records.record import Status
from runner.records.row import Row

if TYPE_CHECKING:
    from runner.sweep.plan import Plan
    from runner.sweep.reporter import SweepOutcome

OWN_LAUNCHER = "hydra_plugins.bridge_runner.launcher.BridgeRunnerLauncher"


def sweep(context: Any, task_function: Any, config: Any, arguments: Sequence[str]) -> Any:
    """Runs the sweep of `arguments`, through our engine or through another launcher.

    Raises:
      UserError: A config that can't run; nothing was written.
    """
    application = own(task_function)
    hydra_settings.require_meaning(config.hydra)
    zipped = OmegaConf.to_container(config.grid.zip)
    assert isinstance(zipped, list)
    job_overrides = expand(arguments, context.config_loader, zipped)
    if application.act.runs and _is_here(config):
        tracking: Any = OmegaConf.to_container(config.tracking, enum_to_str=True)
        loading.preload_writers(len(job_overrides), tracking)
    loading.load()
    configs, refused = compose(context, config, job_overrides)
    for run in {family(one.run): one.run for one in configs}.values():  # no seed runs code
        application.admit(run)
    if config.grid.exclude:
        kept = zip_exclude.leave_out([_excludable(one) for one in configs], [str(text) for text in config.grid.exclude])
        configs = [configs[index] for index in kept]
    if not configs:
        raise one_or_many(refused, len(job_overrides))
    execute, remote_platform = executor(context, config, application)
    place = functools.partial(sweep_folder, config)
    return application.sweep(configs, place, refused, remote_platform=remote_platform, execute=execute)


def executor(context: Any, config: Any, application: Application) -> tuple[Callable[..., SweepOutcome], str | None]:
    """What does the work of a sweep, in this process or by another launcher, and what `device=auto` means there.

    Raises:
      UserError: The launcher is not installed, or its address does not answer.
    """
    from runner.launch import dispatch, launchers
    from runner.sweep import execute as sweep_execute

    if _is_here(config):
        return sweep_execute.execute, None
    engine = launchers.Engine(context, config)
    if application.act.runs:
        engine.begin()

    def execute(plan: Plan, **known: Any) -> SweepOutcome:
        return dispatch.execute(plan, crew=engine.crew(config.process.workers), launch=engine.launch, **known)

    return execute, engine.auto


def _is_here(config: Any) -> bool:
    """Whether this process does the work of a sweep."""
    return bool(config.hydra.launcher["_target_"] == OWN_LAUNCHER)


def launch(
    context: Any, task_function: Any, config: Any, job_overrides: Sequence[Sequence[str]], first_num: int
) -> list[JobReturn]:
    """Runs jobs that another sweeper chose, as one batch in a folder of its own.

    Raises:
      UserError: A config that can't run; nothing was written.
    """
    application = own(task_function)
    hydra_settings.require_meaning(config.hydra)
    hydra_settings.require_own_grid(config)
    configs, refused = compose(context, config, [tuple(one) for one in job_overrides])
    for one in configs:
        application.admit(one.run)
    require_open_folder(config.hydra, "sweep")
    folder = Path(config.hydra.sweep.dir) / f"batch-{first_num}"
    rows = {row.run_id: row for row in application.sweep(configs, lambda _: folder, refused)}
    return [_job_return(one, rows) for one in configs]


def compose(
    context: Any, config: Any, job_overrides: Sequence[Sequence[str]]
) -> tuple[list[Config], list[tuple[str, UserError]]]:
    """The configs of a sweep, and where and why others have no meaning."""
    composer = make_composer(context, config)
    common = set(job_overrides[0]).intersection(*job_overrides) if len(job_overrides) > 1 else set()
    configs: list[Config] = []
    refused: list[tuple[str, UserError]] = []
    with growing():
        for num, overrides in enumerate(job_overrides):
            where = " ".join(text for text in overrides if text not in common) or "the defaults"
            try:
                configs.append(compose_one(composer, overrides, num, where=where))
            except UserError as error:
                refused.append((where, error))
    return configs, refused


def compose_one(composer: Composer, overrides: Sequence[str], num: int, *, where: str) -> Config:
    """One config; `where` identifies it in errors.

    Raises:
      UserError: It has no meaning, or Hydra refuses an override.
    """
    try:
        return composer.config(overrides, num, where)
    except UserError:
        raise
    except Exception as error:
        if not is_hydra_error(error):
            raise
        raise explain(error) from error


def make_composer(context: Any, config: Any) -> Composer:
    """What makes the configs of the sweep that began with `config`."""
    hydra_overrides = OmegaConf.to_container(config.hydra.overrides.hydra)
    assert isinstance(hydra_overrides, list)
    name = config.hydra.job.config_name
    return Composer(context.config_loader, name, [str(item) for item in hydra_overrides], config)


def _excludable(config: Config) -> dict[str, Any]:
    """What a condition can name: every key of the config, and `layer` for the layer's name."""
    return dotted_keys.flatten(serialize.to_data(config.run)) | {"layer": config.run.layer.label}


def own(task_function: Any) -> Application:
    """Our task function.

    Raises:
      UserError: It is another program's.
    """
    if not isinstance(task_function, Application):
        raise UserError(
            "hydra/sweeper=bridge_runner and hydra/launcher=bridge_runner run bridge-runner's configs only",
            "hydra/sweeper=basic hydra/launcher=basic",
        )
    return task_function


def sweep_folder(config: Any, name: str) -> Path:
    """The folder that was named, or one named after the plan: the same command comes back to the same folder."""
    if hydra_settings.names_sweep_dir(config):
        require_open_folder(config.hydra, "sweep")
        return Path(str(config.hydra.sweep.dir))
    return Path(os.path.expanduser(str(config.output_root))) / (config.sweep or name)


def _job_return(config: Config, rows: Mapping[str, Row]) -> JobReturn:
    from runner.experiment import identity

    row = rows[identity.identity_of(config.run).run_id]
    result = JobReturn(overrides=list(config.overrides), cfg=OmegaConf.create(serialize.to_data(config.run)))
    if row.status == Status.done.value:
        result.status = JobStatus.COMPLETED
        result.return_value = row.apply_s
    else:
        result.status = JobStatus.FAILED
        result.return_value = RunFailed(row.error or f"the run is {row.status}")
    return result
