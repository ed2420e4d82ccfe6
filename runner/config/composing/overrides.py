"""Expands a sweep's overrides into one list per config, and finds whether a value depends on the seed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from runner.config.composing import zip_exclude
from runner.errors import ConfigError, UserError

# These resolvers are known to use nothing in the config except their arguments.
PURE_RESOLVERS = ("axis", "oc.env")


def plain(task: DictConfig) -> dict[str, Any]:
    """A config as plain, unresolved data."""
    container = OmegaConf.to_container(task, resolve=False, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def texts(node: Any) -> Iterator[str]:
    """Every string in nested data, including keys."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from texts(key)
            yield from texts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from texts(value)
    elif isinstance(node, str):
        yield node


def may_see_seed(text: str) -> bool:
    """Whether the value of an interpolation may depend on the seed."""
    resolvers = re.findall(r"\$\{\s*([\w.]+)\s*:", text)
    # `${${name}}` refers to whatever another value names.
    nested = re.search(r"\$\{[^}:]*\$\{", text) is not None
    return "seed" in text or nested or any(resolver not in PURE_RESOLVERS for resolver in resolvers)


def expand(arguments: Sequence[str], config_loader: Any, zipped: Sequence[Any] = ()) -> list[tuple[str, ...]]:
    """The override lists of a sweep: the product of all values, last axis fastest, as in Hydra's own sweeper.

    Args:
      arguments: The overrides, as typed.
      config_loader: Hydra's, for this program.
      zipped: Groups of keys whose values vary together.

    Raises:
      UserError: A kind of sweep without a list of values (`interval`), or an invalid zip.
      HydraException: Text that is not an override.
    """
    overrides = OverridesParser.create(config_loader=config_loader).parse_overrides(list(arguments))
    axes: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            axes[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values = itertools.islice(override.sweep_string_iterator(), zip_exclude.MAX_CONFIGS + 1)
            axes[key] = [f"{key}={value}" for value in values]
        else:
            raise UserError(f"{override.input_line}: an interval has no list of values", f"{key}=range(0,10)")
        if not axes[key]:
            raise ConfigError(key, override.get_value_string(), "the sweep over it has no values", f"{key}=range(0,3)")
    return zip_exclude.combine(axes, zipped)
