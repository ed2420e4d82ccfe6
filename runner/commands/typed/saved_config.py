"""The config that Hydra saved with a run, as a command line's own: `--config-path RUN/.hydra --config-name config`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.config import conf_folder, schema
from runner.errors import UserError

PATH_FLAGS, DIR_FLAGS, NAME_FLAGS = ("--config-path", "-cp"), ("--config-dir", "-cd"), ("--config-name", "-cn")

# Name of the saved config among Hydra's.
STORED = "saved_config"

# Groups of ours that every saved config has.
OWN_GROUPS = ("layer", "host", "input", "timing")


@dataclass(kw_only=True)
class _Flags:
    """Hydra's flags on where configs are, by their first names, and the other words."""

    values: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)


def use_saved(words: Sequence[str]) -> list[str]:
    """Words for Hydra in which flags that name a saved config choose that one, within our own settings of Hydra.

    Hydra keeps no settings of its own in a saved config, and prefers a program's config to one of the same name that
    `--config-dir` adds.

    Raises:
      UserError: The flags name a config that this program's own would hide, or a file that is no YAML.
    """
    flags = _parsed(words)
    name = flags.values.get("--config-name", "config").removesuffix(".yaml")
    for flag in ("--config-path", "--config-dir"):
        if flag not in flags.values:
            continue
        path = Path(flags.values[flag]).expanduser() / f"{name}.yaml"
        saved = _read(path)
        if saved is not None:
            _store(saved)
            others = [item for item in flags.values.items() if item[0] not in (flag, "--config-name")]
            return [f"--config-name={STORED}", *(f"{key}={value}" for key, value in others), *flags.words]
        hidden = path.is_file() and (conf_folder.config_dir() / path.name).is_file() and "--config-name" in flags.values
        if flag == "--config-dir" and hidden:
            reason = "bridge-runner's own config of this name comes first"
            another = "--config-name my_config, the file named my_config.yaml, with `defaults: [config, _self_]`"
            raise UserError(f"{path}: {reason}", another)
    return list(words)


def _parsed(words: Sequence[str]) -> _Flags:
    found = _Flags()
    left = list(words)
    while left:
        word = left.pop(0)
        flag, equals, value = word.partition("=")
        first = next((names[0] for names in (PATH_FLAGS, DIR_FLAGS, NAME_FLAGS) if flag in names), None)
        if first is None or not (equals or left):
            found.words.append(word)
        else:
            found.values[first] = value if equals else left.pop(0)
    return found


def _read(path: Path) -> dict[str, Any] | None:
    """A saved config; None if there is none, or it is one that composes others."""
    from omegaconf import DictConfig, OmegaConf

    from runner.config.explain import explain, is_hydra_error

    if not path.is_file():
        return None
    try:
        config = OmegaConf.load(path)
    except Exception as error:
        if not is_hydra_error(error):
            raise
        raise UserError(f"{path}: {explain(error).what}") from error
    if not isinstance(config, DictConfig):
        return None
    data: Any = OmegaConf.to_container(config, resolve=False)
    whole = all(isinstance(data.get(group), Mapping) for group in OWN_GROUPS)
    return data if whole and not {"defaults", "hydra"} & data.keys() else None


def _store(saved: Mapping[str, Any]) -> None:
    """Adds the saved config to Hydra's, with the schema and settings of Hydra of conf/config.yaml."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    own: Any = OmegaConf.to_container(OmegaConf.load(conf_folder.config_dir() / "config.yaml"), resolve=False)
    of_hydra = [item for item in own["defaults"] if isinstance(item, dict) and next(iter(item)).startswith("override ")]
    # The sweep that the saved run was part of has its folder already.
    node = {**saved, "sweep": None, "hydra": own["hydra"], "defaults": [schema.SCHEMA_NAME, "_self_", *of_hydra]}
    ConfigStore.instance().store(name=STORED, node=node, provider="bridge-runner")
