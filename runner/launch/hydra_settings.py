"""Hydra's own settings: what a sweep makes of them, and which it can't honour and so refuses."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config import env_secrets, schema
from runner.errors import ConfigError

# conf/config.yaml's own, which mean that no folder was named.
OWN_SWEEP_DIR = "${output_root}/${or:${sweep},${now:%Y-%m-%d_%H-%M-%S-%f}}"
OWN_SUBDIR = "${hydra.job.num}"


def names_sweep_dir(config: Any) -> bool:
    """Whether `hydra.sweep.dir` was set, on the command line or in a file."""
    typed = any(str(item).startswith("hydra.sweep.dir=") for item in config.hydra.overrides.hydra)
    return typed or _raw(config.hydra.sweep)["dir"] not in (OWN_SWEEP_DIR, "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}")


def require_meaning(hydra: Any) -> None:
    """Validates the settings of Hydra that would otherwise be ignored.

    Args:
      hydra: The `hydra` node of a config.

    Raises:
      ConfigError: One that runs here can't honour.
    """
    if hydra.job.chdir:
        reason = "the runs of a sweep share one process, which stays in the folder that it was started in"
        raise ConfigError("hydra.job.chdir", True, reason, "hydra.job.chdir=false; hydra.run.dir=… or output_root=…")
    if hydra.output_subdir not in (None, ".hydra"):
        reason = "each run has its .hydra in its own folder"
        raise ConfigError("hydra.output_subdir", hydra.output_subdir, reason, "hydra.output_subdir=null")
    if (subdir := _raw(hydra.sweep)["subdir"]) not in (OWN_SUBDIR, "."):
        reason = "a run's folder is named after its number and id: runs/NUM-ID"
        raise ConfigError("hydra.sweep.subdir", subdir, reason, "hydra.sweep.dir=… or sweep=…")


def require_own_grid(config: Any) -> None:
    """Validates that no grid is asked of another program's sweeper, which would take no notice of it.

    Raises:
      ConfigError: There is one.
    """
    for key in ("zip", "exclude"):
        if config.grid[key]:
            reason = f"{config.hydra.runtime.choices['hydra/sweeper']} is a sweeper that knows no grid"
            raise ConfigError(f"grid.{key}", str(config.grid[key]), reason, "the same without hydra/sweeper=…")


def require_open_folder(config: Any) -> None:
    """Validates, before another program's sweeper makes its folder, that no secret would be its name.

    Raises:
      ConfigError: A value from the environment would, or is not there.
    """
    written = {key: _raw(config)[key] for key in ("output_root", "sweep")}
    written |= {"hydra.sweep.dir": _raw(config.hydra.sweep)["dir"]}
    found = env_secrets.of_config(written)
    try:
        texts = {key: OmegaConf.select(config, key) for key in written}
    except OmegaConfBaseException as error:
        raise schema.refused(error) from error
    for key, text in texts.items():
        found.require_no_name(key, text, path=key != "sweep")


def _raw(node: Any) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(node, resolve=False)
    return dict(found)
