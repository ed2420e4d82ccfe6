"""Registers the settings as Hydra's schema, and reads them from a composed config."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.config import conf_folder, wandb_environment
from runner.config.dotted_keys import flatten
from runner.config.serialize import from_data
from runner.config.settings.run import Run
from runner.config.settings.sweep import SearchSettings
from runner.errors import ConfigError, UserError

SCHEMA_NAME = "schema"

# Nodes that accept any key.
OPEN_NODES = (
    "layer.kwargs",
    "layer.call",
    "input.shapes",
    "input.dtypes",
    "host.kwargs",
    "host.call",
    "mesh.rules",
    "pipeline.does",
    "tracking.options",
)


@dataclass(frozen=True, kw_only=True)
class Schema(Run):
    """The top level of conf/config.yaml."""

    search: SearchSettings = field(default_factory=SearchSettings)


def layer_names() -> list[str]:
    """Names of the built-in layers."""
    return sorted(path.stem for path in (conf_folder.config_dir() / "layer").glob("*.yaml"))


def from_config(config: Any) -> Run:
    """The `Run` of a composed config.

    Raises:
      ConfigError: An invalid value, or an interpolation that can't be resolved.
      UserError: OmegaConf rejects the config.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    register_resolvers()
    _require_features(config)
    try:
        data = OmegaConf.to_container(config, resolve=True, throw_on_missing=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise refused(error) from error
    assert isinstance(data, dict)
    data["tracking"] = wandb_environment.filled(data["tracking"])
    for key, default in vars(Run()).items():
        if dataclasses.is_dataclass(default) and not isinstance(data[key], dict):
            raise ConfigError(key, data[key], "it is a group of keys, and no value")
    data["layer"]["seeded_by"] = sorted({key.split(".")[0] for key in _kwargs_with(config, "${seed}")})
    return from_data({str(key): value for key, value in data.items() if key not in ("hydra", "search")})


def search_from_config(config: Any) -> SearchSettings:
    """The `SearchSettings` of a composed config.

    Raises:
      ConfigError: An invalid value.
    """
    wanted = SearchSettings(**config.search)
    wanted.check()
    return wanted


def register() -> None:
    """Registers the schema and the resolvers with Hydra. Idempotent."""
    from hydra.core.config_store import ConfigStore

    register_resolvers()
    store = ConfigStore.instance()
    if f"{SCHEMA_NAME}.yaml" not in store.repo:  # making its node takes as long as composing a group
        store.store(name=SCHEMA_NAME, node=_writable_schema(), provider="bridge-runner")
    _prefer_files("hydra", "launcher")
    _prefer_files("hydra", "sweeper")
    _prefer_files("hydra", "sweeper", "sampler")


def _prefer_files(*group: str) -> None:
    """Removes plugins' entries from Hydra's store if conf/ has a file of the same name: the file is complete.

    Hydra would use such an entry as the file's schema, and warn about it.
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # which registers their entries, only once
    entries: Any = ConfigStore.instance().repo
    for part in group:
        entries = entries.get(part, {})
    for path in conf_folder.config_dir().joinpath(*group).glob("*.yaml"):
        entries.pop(path.name, None)


def register_resolvers() -> None:
    """`${axis:${input_shape},-1}`: one axis of a shape, counted from the end if negative; `${or:${sweep},NAME}`."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("axis", _axis, replace=True)
    OmegaConf.register_new_resolver("or", lambda value, otherwise: value or otherwise, replace=True)


def _axis(shape: Sequence[int], index: int) -> int | None:
    # Out of range gives null, not an error: the shape itself is validated later, with a better message.
    return shape[index] if -len(shape) <= index < len(shape) else None


def _require_features(config: Any) -> None:
    from omegaconf import OmegaConf

    if OmegaConf.select(config, "features") is not None:
        return
    if users := _kwargs_with(config, "${features}"):
        name = config.layer.get("name") or config.layer.get("target")
        raise ConfigError("features", None, f"layer {name} takes it as {users[0]}", "features=8")


def _kwargs_with(config: Any, reference: str) -> list[str]:
    """Keys of the layer's keyword arguments, as `a.b`, whose text holds the reference."""
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(config.layer.kwargs, resolve=False)
    assert isinstance(raw, dict)
    flat = flatten({str(key): value for key, value in raw.items()})
    return [key for key, value in flat.items() if isinstance(value, str) and reference in value]


def refused(error: Any) -> UserError:
    """OmegaConf's error as ours, with the key, and what to type if an environment variable is not set."""
    what = str(error).splitlines()[0]
    if match := re.search(r"Environment variable '(.+)' not found", what):
        reference, suggestion = f"${{oc.env:{match[1]}}}", f"{match[1]}=… before the command"
        return ConfigError(error.full_key, reference, f"the environment variable {match[1]} is not set", suggestion)
    return UserError(what)


def _writable_schema() -> Any:
    """`Schema` as a config node.

    Hydra rejects a frozen dataclass, since OmegaConf marks its node read-only: the flag is cleared, on copies whose
    `__post_init__` does not validate half-composed values.
    """
    from omegaconf import DictConfig, OmegaConf

    def clear(node: Any) -> None:
        OmegaConf.set_readonly(node, None)
        for key in node:
            child = node._get_node(key)
            if isinstance(child, DictConfig):
                clear(child)

    node = OmegaConf.structured(Schema)
    clear(node)
    # Hydra locks the config against new keys; we can't know a constructor's keys, so these need no plus.
    for name in OPEN_NODES:
        OmegaConf.set_struct(OmegaConf.select(node, name), False)
    return node
