"""Values that a config takes from the environment: files keep the variable's name, who needs the value asks again.

`layer.kwargs.token=${oc.env:TOKEN}` gives the layer what `TOKEN` holds. What is written (the record and what is made
from it, the plan, Hydra's files) has `${oc.env:TOKEN}` in the place of the value, and `resolve` puts it back.
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

# In the keys that refer to a variable every value is replaced; elsewhere not one so short that it is there by chance.
MIN_CHARACTERS = 8


@dataclass(frozen=True)
class Redaction:
    """What is to be kept out of files.

    Attributes:
      values: Values of environment variables, by name.
      keys: Dotted config keys whose text is made from others: there also short values are replaced.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()

    def text(self, text: str, *, least: int = MIN_CHARACTERS) -> str:
        """`text` with the names of variables in the place of their values that have `least` characters."""
        # The longest first: one value may be a part of another.
        for name, value in sorted(self.values.items(), key=lambda item: -len(item[1])):
            if len(value) >= least:
                text = text.replace(value, f"${{oc.env:{name}}}")
        return text

    def data(self, data: Any, *, least: int = MIN_CHARACTERS) -> Any:
        """JSON data with every text in it so."""
        return _mapped(data, lambda text: self.text(text, least=least)) if self.values else data

    def settings(self, data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        """A config as JSON data, without the values."""
        return {
            key: self.settings(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else self.data(value, least=1 if f"{prefix}{key}" in self.keys else MIN_CHARACTERS)
            for key, value in data.items()
        }


def of_config(container: Mapping[str, Any]) -> Redaction:
    """What a composed config takes from the environment.

    Args:
      container: The config before anything in it is resolved.

    Raises:
      ConfigError: The name of a variable is itself looked up, so that it can't be told.
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


def of_kept(data: Mapping[str, Any]) -> Redaction:
    """What a config that was kept without values takes from the environment."""
    found = {key: REFERENCE.findall(text) for key, text in _texts(data) if REFERENCE.search(text)}
    names = {name for names in found.values() for name in names if os.environ.get(name)}
    return Redaction({name: os.environ[name] for name in names}, frozenset(found)) if names else Redaction()


def resolve(data: Mapping[str, Any]) -> dict[str, Any]:
    """A config that was kept without values, with those that the environment has now.

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
    """Every text in nested data with its dotted key; those in a list have the list's."""
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
