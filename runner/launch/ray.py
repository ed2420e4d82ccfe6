"""Runs Hydra jobs as Ray tasks through Ray's public API: on this machine, or on a cluster by its address.

The stock launcher can't join a cluster as it is, and reads results in order, so that one job that dies ends the sweep.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from omegaconf import open_dict

from runner.errors import UserError
from runner.launch.dispatch import JobEnd, JobLost
from runner.timing import machine

# Otherwise local Ray processes listen on every interface, send usage statistics, and run at a lower priority than
# every other process, which makes timing impossible.
HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}

# Results are a few bytes per job, whereas Ray reserves a third of the memory by default.
STORE_BYTES = 80 * 2**20

ANSWER_TIMEOUT_S = 10.0

# Cluster jobs inherit only environment variables that configure JAX and W&B, and no secrets, which Ray would display.
HANDED_ON = re.compile(r"(JAX|XLA|TF|WANDB|HYDRA)_(?!.*(KEY|TOKEN|SECRET|PASSW))")


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """The settings in `hydra.launcher`.

    Attributes:
      address: A cluster's, as for `ray.init`; `auto` finds one running here; None starts one for this sweep.
      num_cpus: Cores per job.
      num_gpus: GPUs per job.
      memory_bytes: Memory per job, for Ray's scheduling; None leaves it out.
      init: More arguments for `ray.init`.
      options: More task options, e.g. `resources: {fast: 1}`.
    """

    address: str | None = None
    num_cpus: float = 1
    num_gpus: float = 0
    memory_bytes: int | None = None
    init: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def connect(settings: RaySettings) -> Any:
    """Connects to Ray; idempotent.

    Raises:
      UserError: It is not installed, or no cluster is at the address.
    """
    if settings.address is None:
        # Ray reads these on import.
        os.environ.update({name: value for name, value in HERE.items() if name not in os.environ})
    try:
        import ray
    except ImportError as error:
        raise UserError("hydra/launcher=ray: Ray is not installed", "pip install 'bridge-runner[ray]'") from error
    if ray.is_initialized():
        return ray
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "runtime_env": runtime_env()}
    if settings.address is None:
        arguments |= {"address": "local", "num_cpus": machine.num_cores(), "include_dashboard": False}
        arguments |= {"object_store_memory": STORE_BYTES, "_node_ip_address": "127.0.0.1"}
    else:
        _require_answer(settings.address)
        arguments["address"] = settings.address
    # Ray exits the process on SIGTERM; we want the sweep to handle it.
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**(arguments | dict(settings.init)))
    except ConnectionError as error:
        raise _no_cluster(settings.address, str(error)) from error
    finally:
        if in_main and handler is not None:
            signal.signal(signal.SIGTERM, handler)
    return ray


def _require_answer(address: str) -> None:
    """Validates that the host listens: Ray itself would retry for minutes and log many lines."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_S).close()
        except OSError as error:
            raise _no_cluster(address, f"nothing answers there ({error.strerror or error})") from error


def _no_cluster(address: str | None, reason: str) -> UserError:
    what = f"hydra.launcher.address={address}: {reason.strip().splitlines()[0].rstrip('.')}"
    return UserError(what, "hydra.launcher.address=null, for processes of this machine")


def runtime_env() -> dict[str, Any]:
    """What a job inherits from this process: the module search path, and variables that configure JAX and W&B."""
    handed_on = {name: value for name, value in os.environ.items() if HANDED_ON.match(name)}
    path = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {"env_vars": handed_on | {"PYTHONPATH": os.pathsep.join(path)}}


def num_workers(settings: RaySettings) -> int:
    """Number of concurrent jobs on the cluster; at least 1, since a cluster may grow."""
    there = connect(settings).cluster_resources()
    sides = [there.get("CPU", 0) / settings.num_cpus if settings.num_cpus else float("inf")]
    sides += [there.get("GPU", 0) / settings.num_gpus] if settings.num_gpus else []
    return max(1, int(min(sides)))


def launch(
    settings: RaySettings, launcher: Any, job_overrides: Sequence[Sequence[str]], first_num: int
) -> list[JobReturn]:
    """Runs the jobs of a launcher; a lost one gives a `JobLost` in its place, and the others continue.

    Args:
      settings: The settings in `hydra.launcher`.
      launcher: Has Hydra's context, task function and config as attributes.
      job_overrides: Overrides of each job.
      first_num: Number of the first.
    """
    ray = connect(settings)
    # Retrying a job that died is up to the caller, who knows what is left of it.
    options = {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus, "max_retries": 0}
    options |= {"memory": settings.memory_bytes} if settings.memory_bytes else {}
    remote = ray.remote(**(options | dict(settings.options)))(run_hydra_job)
    # Once for all jobs.
    shared = ray.put((launcher.context, launcher.task_function, launcher.config, Singleton.get_state()))
    nums = {remote.remote(shared, list(one), first_num + index): index for index, one in enumerate(job_overrides)}
    returns: dict[int, JobReturn] = {}
    while waiting := [ref for ref, index in nums.items() if index not in returns]:
        ready, _ = ray.wait(waiting, num_returns=1, timeout=1.0)
        for ref in ready:
            returns[nums[ref]] = _result(ray, ref, job_overrides[nums[ref]])
    return [returns[index] for index in range(len(job_overrides))]


def run_hydra_job(shared: tuple[Any, ...], overrides: list[str], num: int) -> JobReturn:
    """Runs one job in a Ray process, as Hydra's own launchers do."""
    context, task_function, config, state = shared
    setup_globals()
    Singleton.set_state(state)
    composed = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = str(num)
        composed.hydra.job.num = num
    HydraConfig.instance().set_config(composed)
    return run_job(
        hydra_context=context,
        task_function=task_function,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _result(ray: Any, ref: Any, overrides: Sequence[str]) -> JobReturn:
    errors = ray.exceptions
    try:
        return ray.get(ref)
    except errors.OutOfMemoryError as error:
        end = JobEnd(reason=f"Ray ended it for want of memory: {_first_line(error)}", blame=True)
    except errors.WorkerCrashedError:
        end = JobEnd(reason="its process died: a crash in native code, or a kill", blame=True)
    except errors.RayTaskError as error:
        raise error.as_instanceof_cause() from None
    except errors.RayError as error:
        end = JobEnd(reason=_first_line(error), blame=False)
    lost = JobReturn(overrides=list(overrides))
    lost.status = JobStatus.FAILED
    lost.return_value = JobLost(end)
    return lost


def _first_line(error: BaseException) -> str:
    # What follows the first sentence is advice on Ray's dashboard.
    return str(error).strip().splitlines()[0].partition(". ")[0]
