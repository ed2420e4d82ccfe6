"""Converts Python values to sweep overrides: a list or range is an axis, everything else is one value."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from runner.errors import UserError, quoted

# Their value is a list: a flat list is one value, a list of lists is an axis.
LIST_VALUED = ("input_shape", "mesh.input")
# These have one value for the whole sweep, however nested its lists are.
NO_AXES = ("grid.zip", "grid.exclude")

KEY = re.compile(r"(\+{1,2}|~)?[A-Za-z_][\w./@-]*")
# Text that Hydra reads verbatim; all other text is quoted.
PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
KEYWORDS = {"null", "true", "false", "nan", "inf"}


def to_overrides(values: Mapping[str, Any]) -> list[str]:
    """The command line arguments equivalent to `values`.

    Args:
      values: By key as on the command line: `features`, `layer.kwargs.hidden`, `hydra/launcher`. A list or range is an
        axis of the sweep; a tuple is one value that is a list, as is a flat list for `input_shape`.

    Raises:
      UserError: A key is invalid, an axis has no values, or no config can hold a value.
    """
    return [f"{_key(key)}={_axis(key, _plain(value))}" for key, value in values.items()]


def _key(key: str) -> str:
    if not KEY.fullmatch(key):
        raise UserError(
            f"{key!r} is not a config key", "sweep(features=[8, 16], overrides={'layer.kwargs.hidden': 32})"
        )
    return key


def _axis(key: str, value: Any) -> str:
    if isinstance(value, range) and len(value) > 1:
        step = f",{value.step}" if value.step != 1 else ""
        return f"range({value.start},{value.stop}{step})"
    if not isinstance(value, (list, range)) or _is_one_list(key, value):
        return spell(key, value)
    if not value:
        raise UserError(f"{key}={value!r}: an axis needs at least one value", f"{key}=[0]")
    return ",".join(spell(key, _plain(item)) for item in value)


def _is_one_list(key: str, value: Iterable[Any]) -> bool:
    if key in NO_AXES:
        return True
    return key in LIST_VALUED and not any(isinstance(_plain(item), (list, tuple, type(None))) for item in value)


def spell(key: str, value: Any) -> str:
    """One value in Hydra's grammar; text that could be read as something else is quoted.

    Raises:
      UserError: No config can hold it.
    """
    value = _plain(value)
    if value is None:
        return "null"
    if isinstance(value, (bool, int)):
        return str(value).lower()
    if isinstance(value, float):
        return str(value)
    if isinstance(value, str):
        is_plain = PLAIN.fullmatch(value) and value.lower() not in KEYWORDS
        return value if is_plain else quoted(value)
    if isinstance(value, (list, tuple, range)):
        return "[" + ",".join(spell(key, item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{spell(key, name)}:{spell(key, item)}" for name, item in value.items()) + "}"
    what = f"{key}: a config holds numbers, text, lists and dicts, and this is a {type(value).__name__}"
    raise UserError(what, f"{key}='name', or a dotted path as text")


def _plain(value: Any) -> Any:
    """Converts paths to text, and NumPy and JAX values to plain Python numbers and lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value
