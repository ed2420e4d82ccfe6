"""What our Hydra plugins do: the sweeper's arguments to configs, and jobs of any sweeper to runs."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from runner import engines, grammar, launching, settings, sweeping
from runner.application import Application, RunFailed
from runner.errors import UserError, one_or_many
from runner.planning import Config, Plan
from runner.records import Row, Status
from runner.sweep import Outcome

OWN_LAUNCHER = "hydra_plugins.bridge_runner.launcher.BridgeRunnerLauncher"


def sweep(context: Any, task_function: Any, config: Any, arguments: Sequence[str]) -> Any:
    """Runs the sweep of `arguments`, through our engine or through another launcher.

    Raises:
      UserError: A config that can't run; nothing was written.
    """
    application = _own(task_function)
    zipped = OmegaConf.to_container(config.zip)
    assert isinstance(zipped, list)
    job_overrides = sweeping.expand(arguments, context.config_loader, zipped)
    configs, refused = compose(context, config, job_overrides)
    kept = grammar.leave_out([_excludable(one) for one in configs], [str(text) for text in config.exclude])
    configs = [configs[index] for index in kept]
    place = functools.partial(_sweep_folder, config)
    if config.hydra.launcher["_target_"] == OWN_LAUNCHER:
        return application.sweep(configs, place, refused)
    if not configs:
        raise one_or_many(refused, len(job_overrides))
    engine = engines.Engine(context, config)
    if application.runs:
        engine.begin()

    def execute(plan: Plan, **known: Any) -> Outcome:
        return launching.execute(plan, crew=engine.crew(configs[0].run.workers), launch=engine.launch, **known)

    return application.sweep(configs, place, refused, elsewhere=engine.auto, execute=execute)


def launch(
    context: Any, task_function: Any, config: Any, job_overrides: Sequence[Sequence[str]], first_num: int
) -> list[JobReturn]:
    """Runs jobs that another sweeper chose, as one batch in a folder of its own.

    Raises:
      UserError: A config that can't run; nothing was written.
    """
    application = _own(task_function)
    configs, refused = compose(context, config, [tuple(one) for one in job_overrides])
    folder = Path(config.hydra.sweep.dir) / f"batch-{first_num}"
    rows = {row.run_id: row for row in application.sweep(configs, lambda _: folder, refused)}
    return [_job_return(one, rows) for one in configs]


def compose(
    context: Any, config: Any, job_overrides: Sequence[Sequence[str]]
) -> tuple[list[Config], list[tuple[str, UserError]]]:
    """The configs of a sweep, and where and why others have no meaning."""
    hydra_overrides = OmegaConf.to_container(config.hydra.overrides.hydra)
    assert isinstance(hydra_overrides, list)
    name = config.hydra.job.config_name
    composer = sweeping.Composer(context.config_loader, name, [str(item) for item in hydra_overrides], config)
    common = set(job_overrides[0]).intersection(*job_overrides) if len(job_overrides) > 1 else set()
    configs: list[Config] = []
    refused: list[tuple[str, UserError]] = []
    for num, overrides in enumerate(job_overrides):
        where = " ".join(text for text in overrides if text not in common) or "the defaults"
        try:
            configs.append(composer.config(overrides, num, where))
        except UserError as error:
            refused.append((where, error))
        except Exception as error:
            if not sweeping.is_hydra_error(error):
                raise
            refused.append((where, sweeping.explain(error)))
    return configs, refused


def _excludable(config: Config) -> dict[str, Any]:
    """What a condition can name: every key of the config, and `layer` for the layer's name."""
    return settings.flatten(settings.to_data(config.run)) | {"layer": config.run.layer.label}


def _own(task_function: Any) -> Application:
    if not isinstance(task_function, Application):
        raise UserError(
            "hydra/sweeper=bridge_runner and hydra/launcher=bridge_runner run bridge-runner's configs only",
            "hydra/sweeper=basic hydra/launcher=basic",
        )
    return task_function


def _sweep_folder(config: Any, name: str) -> Path:
    """The folder that was named, or one named after the plan: the same command comes back to the same folder."""
    if any(str(item).startswith("hydra.sweep.dir=") for item in config.hydra.overrides.hydra):
        return Path(str(config.hydra.sweep.dir))
    return Path(os.path.expanduser(str(config.output_root))) / (config.sweep or name)


def _job_return(config: Config, rows: Mapping[str, Row]) -> JobReturn:
    from runner import program

    row = rows[program.identify(config.run).run_id]
    result = JobReturn(overrides=list(config.overrides), cfg=OmegaConf.create(settings.to_data(config.run)))
    if row.status == Status.done.value:
        result.status = JobStatus.COMPLETED
        result.return_value = row.apply_s
    else:
        result.status = JobStatus.FAILED
        result.return_value = RunFailed(row.error or f"the run is {row.status}")
    return result
