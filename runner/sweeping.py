"""Overrides to configs: the sweep's product, and each config derived from one composed base.

Composing takes Hydra tens of milliseconds a config. Here it is done once for each choice of groups; the value overrides
are applied to a copy with Hydra's own function, so that the configs are the ones that Hydra would have composed.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner import settings
from runner.errors import ConfigError, UserError, literal, nearest

if TYPE_CHECKING:
    from runner.sweep import Config


@dataclass(frozen=True)
class _Base:
    """One composed choice of groups: the task's config, Hydra's own, and both as they were composed."""

    task: DictConfig
    hydra: DictConfig
    whole: DictConfig


class Composer:
    """Configs from lists of overrides.

    Args:
      config_loader: Hydra's, for this program.
      config_name: Name of the primary config.
      hydra_overrides: Overrides of `hydra.…` that hold for every config.
    """

    def __init__(self, config_loader: Any, config_name: str | None, hydra_overrides: Sequence[str] = ()) -> None:
        self._loader = config_loader
        self._config_name = config_name
        self._hydra_overrides = list(hydra_overrides)
        self._parser = OverridesParser.create(config_loader=config_loader)
        self._bases: dict[tuple[str, ...], _Base] = {}
        self._entered: _Base | None = None
        self._parse = functools.cache(self._parser.parse_override)
        self._is_group = functools.cache(config_loader.repository.group_exists)

    def task_config(self, overrides: Sequence[str], num: int = 0) -> DictConfig:
        """The config of one job, without the `hydra` node, as Hydra would have composed it.

        Raises:
          HydraException: An override that can't be applied.
        """
        base, rest = self._base(overrides)
        self._enter(base, num)
        task = copy.deepcopy(base.task)
        _apply(rest, task)
        return task

    def config(self, overrides: Sequence[str], num: int = 0, where: str = "") -> Config:
        """The config of one job, typed and checked.

        Raises:
          UserError: A value without meaning.
          HydraException: An override that can't be applied.
        """
        from runner.sweep import Config  # brings JAX, which `--help` and `--cfg` do without

        typed = tuple(overrides)
        run = settings.from_config(self.task_config(typed, num))
        return Config(run=run, overrides=typed, where=where, hydra_files=functools.partial(self._hydra_files, typed))

    def _hydra_files(self, overrides: Sequence[str], num: int) -> Mapping[str, str]:
        task = self.task_config(overrides, num)
        base, _ = self._base(overrides)
        hydra: Any = base.hydra
        with open_dict(hydra):
            hydra.hydra.overrides.task = list(overrides)
        return hydra_files(task, hydra, overrides)

    def _base(self, overrides: Sequence[str]) -> tuple[_Base, list[Override]]:
        parsed = [self._parse(text) for text in overrides]
        structural = tuple(text for text, one in zip(overrides, parsed, strict=True) if self._is_structural(one))
        if structural not in self._bases:
            self._bases[structural] = self._compose(structural)
        return self._bases[structural], [one for one in parsed if not self._is_structural(one)]

    def _compose(self, structural: Sequence[str]) -> _Base:
        whole = self._loader.load_configuration(
            config_name=self._config_name,
            overrides=[*self._hydra_overrides, *structural],
            run_mode=RunMode.RUN,
        )
        task = copy.deepcopy(whole)
        with open_dict(task):
            hydra = OmegaConf.create({"hydra": task.pop("hydra")})
        return _Base(task=task, hydra=hydra, whole=whole)

    def _is_structural(self, override: Override) -> bool:
        """Whether the override needs composing: it chooses a group, or is about Hydra itself."""
        key = override.key_or_group
        return key == "hydra" or key.startswith("hydra.") or self._is_group(key)

    def _enter(self, base: _Base, num: int) -> None:
        """Makes `${hydra:…}` answer for this job."""
        if self._entered is not base:
            HydraConfig.instance().set_config(base.whole)  # copies it: milliseconds
            self._entered = base
        current: Any = HydraConfig.instance().cfg
        job = current.hydra.job
        with read_write(job), open_dict(job):
            job.num = num
            job.id = str(num)


def hydra_files(task: DictConfig, hydra: DictConfig, overrides: Sequence[str]) -> dict[str, str]:
    """The three files that Hydra leaves beside a job, by name."""
    return {
        "config.yaml": OmegaConf.to_yaml(task),
        "hydra.yaml": OmegaConf.to_yaml(hydra),
        "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(list(overrides))),
    }


def expand(arguments: Sequence[str], config_loader: Any) -> list[tuple[str, ...]]:
    """The override lists of a sweep: the product of all values, the last axis fastest, as Hydra's own sweeper.

    Raises:
      UserError: A kind of sweep that has no list of values (`interval`).
      HydraException: Text that is no override.
    """
    overrides = OverridesParser.create(config_loader=config_loader).parse_overrides(list(arguments))
    axes: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            axes[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise UserError(f"{override.input_line}: an interval has no list of values", f"{key}=range(0,10)")
        if not axes[key]:
            raise ConfigError(key, override.get_value_string(), "the sweep over it has no values", f"{key}=range(0,3)")
    return list(itertools.product(*axes.values()))


def _apply(overrides: Sequence[Override], config: DictConfig) -> None:
    # Hydra's own function, under an internal name: a test compares the result with Hydra's over a wide grid.
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def is_hydra_error(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf refused what was typed."""
    from omegaconf.errors import OmegaConfBaseException

    return isinstance(error, (HydraException, OmegaConfBaseException))


def explain(error: BaseException) -> UserError:
    """Hydra's refusal as one sentence with what to type, where it is about a name; else in Hydra's words."""
    text = str(error)
    cause = str(error.__cause__ or "")
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, choice = match[1], match[2]
        return _unknown_choice(group, choice, _choices(text))
    if match := re.search(r"Could not override '([^']+)'\.\nTo append to your config use \+(\S+)", text):
        return _unknown_key(match[1], match[2])
    if match := re.search(r"Error merging override (.+)", text):
        reason = cause.splitlines()[0].rstrip(".") if cause else "it does not fit"
        return UserError(f"{match[1]}: {reason}", _default_of(match[1].partition("=")[0]))
    lines = [line.strip() for line in f"{text}\n{cause}".splitlines() if line.strip()]
    return UserError("\n".join(lines[:5]).rstrip("."))


def _unknown_choice(group: str, choice: str, choices: Sequence[str]) -> UserError:
    close = nearest(choice, choices)
    if group == "layer":
        reason = f"no such layer; there are {', '.join(choices)}"
        return UserError(f"layer={choice}: {reason}", f"layer={close or 'custom layer.target=my_pkg.MyLayer'}")
    there = f"; there are {', '.join(choices)}" if choices else ""
    return UserError(f"{group}={choice}: no such choice{there}", f"{group}={close}" if close else None)


def _unknown_key(key: str, override: str) -> UserError:
    value = override.partition("=")[2]
    known = list(settings.flatten(settings.to_data(settings.Run())))
    groups = sorted({name.partition(".")[0] for name in known})
    close = nearest(key, [*known, *groups])
    return UserError(f"{key}={value}: no such key", f"{close}={value}" if close else "bridge-runner --cfg job")


def _default_of(key: str) -> str | None:
    defaults = settings.flatten(settings.to_data(settings.Run()))
    return f"{key}={literal(defaults[key])}" if defaults.get(key) is not None else None


def _choices(text: str) -> list[str]:
    _, _, rest = text.partition("Available options in")
    return re.findall(r"^\t([^\s=]+)$", rest, flags=re.MULTILINE)
