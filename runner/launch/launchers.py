"""The engines that can run a sweep: what each Hydra launcher offers, and how to start its jobs."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf, open_dict, read_write

from runner.errors import UserError, quoted
from runner.launch.dispatch import JobEnd, JobLost
from runner.launch.jobs import Crew
from runner.launch.worker import Composing, Worker
from runner.records.paths import SubmissionFolder
from runner.timing import machine

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
LOCAL = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
RAY = "hydra_plugins.bridge_runner.ray_launcher.RayLauncher"

EXTRAS = {JOBLIB: "joblib", LOCAL: "slurm", SLURM: "slurm"}

# The launchers' names for the number of GPUs per job.
# As PYTHONWARNINGS has it; the message begins so.
TRACKER_FILTER = "ignore:resource_tracker:UserWarning"

GPUS = ("gpus_per_node", "gpus_per_task", "num_gpus")


class Engine:
    """The Hydra launcher that the command line chose.

    Args:
      context: Hydra's.
      config: The sweep's initial config.

    Raises:
      UserError: Its package is not installed.
    """

    def __init__(self, context: Any, config: Any) -> None:
        self._context = context
        self._config = config
        self._settings: dict[str, Any] = OmegaConf.to_container(config.hydra.launcher, resolve=False)  # type: ignore[assignment]
        self.name = str(self._settings["_target_"])
        self.choice = f"hydra/launcher={config.hydra.runtime.choices['hydra/launcher']}"
        if self.name not in Plugins.instance().class_name_to_class:
            extra = EXTRAS.get(self.name)
            what = f"{self.choice}: {self.name} is not installed"
            raise UserError(what, f"pip install 'bridge-runner[{extra}]'" if extra else None)

    @property
    def auto(self) -> str | None:
        """The platform that `device=auto` means where the jobs run; None if that is this process."""
        if self.name == BASIC:
            return None
        asked = any(self._settings.get(key) for key in GPUS) or "gpu" in str(self._settings.get("gres"))
        return "gpu" if asked else "cpu"

    def begin(self) -> None:
        """Does what must precede JAX in this process, which must not fork once JAX has started."""
        if self.name == RAY:
            from runner.launch import ray

            ray.connect(self._ray_settings())

    def crew(self, workers: int | None) -> Crew:
        """What the engine offers.

        Args:
          workers: Number of jobs that the user wants; None for as many as can run concurrently.
        """
        cores = machine.num_cores()
        num_workers = workers or self._side_by_side(cores)
        return Crew(
            engine=self.name,
            choice=self.choice,
            num_workers=num_workers,
            exact=workers is not None,
            process_per_job=self.name not in (BASIC, JOBLIB, RAY),
            auto=self.auto,
            num_cores=self._num_cores(num_workers, cores),
        )

    def launch(self, submission: SubmissionFolder, num_jobs: int) -> Mapping[int, JobEnd]:
        """Starts the jobs of a submission and waits for them; returns the lost ones, by number."""
        folder = str(submission.path.absolute())
        config = copy.deepcopy(self._config)
        with read_write(config), open_dict(config):
            config.hydra.sweep.dir = folder
            if self.name == JOBLIB:
                _quiet_tracker()
                # A process of joblib's that gets no job would never know that the sweep has died.
                config.hydra.launcher.n_jobs = min(self._side_by_side(1), max(2, num_jobs))
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self._context, task_function=self._worker(submission), config=config
        )
        # In a separate process a job composes its config from the overrides.
        overrides = [f"hydra.sweep.dir={quoted(folder)}", "hydra.sweep.subdir=."]
        returns = launcher.launch([list(overrides) for _ in range(num_jobs)], 0)
        return {num: end for num, one in enumerate(returns) if (end := _end(one)) is not None}

    def _worker(self, submission: SubmissionFolder) -> Worker:
        hydra_overrides = OmegaConf.to_container(self._config.hydra.overrides.hydra)
        assert isinstance(hydra_overrides, list)
        composing = Composing(
            config_loader=self._context.config_loader,
            config_name=str(self._config.hydra.job.config_name),
            hydra_overrides=tuple(str(item) for item in hydra_overrides),
            master=self._config,
        )
        folder = submission.path.absolute()
        parent = os.getpid() if self.name == JOBLIB else None
        return Worker(folder.parent.parent, folder, composing, os.getcwd(), parent)

    def _side_by_side(self, cores: int) -> int:
        if self.name == BASIC:
            return 1
        if self.name == JOBLIB:
            import joblib

            return int(joblib.effective_n_jobs(self._settings.get("n_jobs", -1)))
        if self.name == RAY:
            from runner.launch import ray

            return ray.num_workers(self._ray_settings())
        return int(self._settings.get("array_parallelism") or cores)

    def _ray_settings(self) -> Any:
        from runner.launch import ray

        known = {key: value for key, value in self._settings.items() if key != "_target_"}
        return ray.RaySettings(**known)

    def _num_cores(self, num_workers: int, cores: int) -> int | None:
        if self.name in (JOBLIB, LOCAL):
            return max(1, cores // num_workers)
        asked = self._settings.get("cpus_per_task") or self._settings.get("num_cpus")
        return int(asked) if asked else None


def _quiet_tracker() -> None:
    """Keeps joblib's resource tracker from warning, after a kill of the sweep, of what it then cleans up."""
    known = os.environ.get("PYTHONWARNINGS", "")
    if TRACKER_FILTER not in known:
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (known, TRACKER_FILTER)))


def _end(one: JobReturn) -> JobEnd | None:
    """How a job was lost; None for one that returned.

    Raises:
      Exception: What the job raised. Not user errors, which are in its journal.
    """
    if one.status is not JobStatus.FAILED:
        return None
    error = one._return_value
    if isinstance(error, JobLost):
        return error.end
    raise error
