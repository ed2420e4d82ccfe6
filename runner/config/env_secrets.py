"""Redacts values that a config takes from the environment: files keep the variable's name, and it is resolved on use.

`layer.kwargs.token=${oc.env:TOKEN}` passes the value of `TOKEN` to the layer. All files (the record and what is derived
from it, the plan, Hydra's files, the tracker's) have `${oc.env:TOKEN}` in place of the value, and `resolve` restores
it. Where a value would be a name (of a folder, of a W&B project), nothing can stand in its place, and it is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.errors import ConfigError

REFERENCE = re.compile(r"\$\{oc\.env:([^${},]+)\}")
_NAMED = re.compile(r"\boc\.env\s*:\s*([^,}]*)")

# Keys that become names, and those of them that become paths: an absolute path is no secret.
PATHS = ("output_root", "process.compilation_cache")
TRACKED = ("project", "entity", "group", "wandb_sweep")
NAMES = ("sweep", "layer.name", *(f"tracking.{name}" for name in TRACKED), *PATHS)

# Variables that hold what anybody may see.
PUBLIC = frozenset(
    (
        "USER",
        "LOGNAME",
        "HOSTNAME",
        "SLURM_JOB_ID",
        "SLURM_JOB_NAME",
        "WANDB_ENTITY",
        "WANDB_PROJECT",
        "WANDB_RUN_GROUP",
        "WANDB_SWEEP_ID",
    )
)

# In keys that refer to a variable, every value is replaced; in other keys, none so short that it may match by chance.
MIN_CHARACTERS = 8


@dataclass(frozen=True)
class Redaction:
    """What to redact from files.

    Attributes:
      values: Values of environment variables, by name.
      keys: Dotted config keys whose text is interpolated: there, short values are replaced too.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()

    def text(self, text: str, *, least: int = MIN_CHARACTERS) -> str:
        """`text` with values of at least `least` characters replaced by their variables' names."""
        # Longest first: one value may be a substring of another.
        for name, value in sorted(self.values.items(), key=lambda item: -len(item[1])):
            if len(value) >= least:
                text = text.replace(value, f"${{oc.env:{name}}}")
        return text

    def data(self, data: Any, *, least: int = MIN_CHARACTERS) -> Any:
        """JSON data with every string in it redacted."""
        return _mapped(data, lambda text: self.text(text, least=least)) if self.values else data

    def named_in(self, text: str) -> str | None:
        """The name of the first variable whose value is in `text`."""
        return next(
            (name for name, value in self.values.items() if len(value) >= MIN_CHARACTERS and value in text), None
        )

    def require_no_name(self, key: str, text: str | None, *, path: bool = False) -> None:
        """Checks that `text`, the value of `key`, is a name without values from the environment.

        Args:
          key: The config key.
          text: Its value.
          path: Whether it is a path: those of absolute paths may be in it.

        Raises:
          ConfigError: It has one.
        """
        if text is None or key not in self.keys:
            return
        for name, value in self.values.items():
            if value in text and name not in PUBLIC and not (path and value.startswith(("/", "~"))):
                reason = f"it is a name, which would hold the value of {name}, and that is kept out of files"
                typed = text.replace(value, f"${name}" if text == value else f"${{{name}}}")
                reference = text.replace(value, f"${{oc.env:{name}}}")
                raise ConfigError(key, reference, reason, f'{key}="{typed}" if it is no secret: the shell puts it in')

    def settings(self, data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        """A config as JSON data, redacted."""
        return {
            key: self.settings(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else self.data(value, least=1 if f"{prefix}{key}" in self.keys else MIN_CHARACTERS)
            for key, value in data.items()
        }


def of_config(container: Mapping[str, Any]) -> Redaction:
    """What a composed config takes from the environment.

    Args:
      container: The unresolved config.

    Raises:
      ConfigError: The name of a variable is itself interpolated, so it can't be determined.
    """
    values: dict[str, str] = {}
    keys = set()
    for key, text in _texts(container):
        if "${" in text:
            keys.add(key)
        for name in (match[1].strip().strip("'\"") for match in _NAMED.finditer(text)):
            if "$" in name:
                raise ConfigError(key, text, "the variable must be named, to be kept out of files", "${oc.env:NAME}")
            if os.environ.get(name):
                values[name] = os.environ[name]
    return Redaction(values, frozenset(keys)) if values else Redaction()


def require_no_names(redaction: Redaction, settings: Mapping[str, Any]) -> None:
    """Checks that a config's names have no values from the environment.

    Args:
      redaction: What the config takes from there.
      settings: The config, as nested data.

    Raises:
      ConfigError: One has.
    """
    if not redaction.values:
        return
    texts = dict(_texts(settings))
    for key in NAMES:
        redaction.require_no_name(key, texts.get(key), path=key in PATHS)


def of_kept(data: Mapping[str, Any]) -> Redaction:
    """What a redacted config takes from the environment."""
    found = {key: REFERENCE.findall(text) for key, text in _texts(data) if REFERENCE.search(text)}
    names = {name for names in found.values() for name in names if os.environ.get(name)}
    return Redaction({name: os.environ[name] for name in names}, frozenset(found)) if names else Redaction()


def resolve(data: Mapping[str, Any]) -> dict[str, Any]:
    """A redacted config with its values restored from the current environment.

    Raises:
      ConfigError: A variable is not set.
    """
    found = {key: text for key, text in _texts(data) if REFERENCE.search(text)}
    for key, text in found.items():
        for name in REFERENCE.findall(text):
            if name not in os.environ:
                reason = f"the environment variable {name} is not set, and its value was not kept"
                raise ConfigError(key, text, reason, f"{name}=… before the command")
    if not found:
        return dict(data)
    replaced = _mapped(data, lambda text: REFERENCE.sub(lambda match: os.environ[match[1]], text))
    assert isinstance(replaced, dict)
    return replaced


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string in nested data with its dotted key; strings in a list have the list's key."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _texts(value, key)


def _mapped(node: Any, change: Callable[[str], str]) -> Any:
    if isinstance(node, str):
        return change(node)
    if isinstance(node, Mapping):
        return {key: _mapped(value, change) for key, value in node.items()}
    return [_mapped(value, change) for value in node] if isinstance(node, (list, tuple)) else node
