"""Zips and exclusions of a sweep: values that vary together, and configs left out of the product."""

from __future__ import annotations

import ast
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner.errors import ConfigError, UserError, literal, nearest

EXAMPLE_ZIP = "grid.zip=[[seed,features]]"
EXAMPLE_EXCLUDE = "\"grid.exclude=['features>16 and seed==0']\""

# The most values of a key that a suggestion lists.
MAX_SUGGESTED = 8

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}

ABSENT = object()
WORDS = {"true": True, "false": False, "null": None}


# Their files alone would take days, and the plan more memory than there is.
MAX_CONFIGS = 100_000


def combine(axes: Mapping[str, Sequence[str]], zipped: Sequence[Any]) -> list[tuple[str, ...]]:
    """All combinations of one override per axis: the product, except that zipped axes advance together.

    Args:
      axes: Overrides of each key, in order; the last varies fastest.
      zipped: Lists of keys; a group varies at the position of its first key.

    Raises:
      ConfigError: A zip has fewer than two keys, a key that is not swept over, or different lengths.
      UserError: They are more than `MAX_CONFIGS`.
    """
    groups = _groups(axes, zipped)
    leaders = {group[0]: group for group in groups}
    followers = {key for group in groups for key in group[1:]}
    columns, order = [], []
    for key in axes:
        if key not in followers:
            group = leaders.get(key, [key])
            columns.append(list(zip(*(axes[name] for name in group), strict=True)))
            order += group
    if math.prod(map(len, columns)) > MAX_CONFIGS:
        raise UserError(f"this sweep has more than {MAX_CONFIGS:,} configs", "several sweeps, each over a part")
    rows = [dict(zip(order, itertools.chain(*parts), strict=True)) for parts in itertools.product(*columns)]
    return [tuple(row[key] for key in axes) for row in rows]


def leave_out(values: Sequence[Mapping[str, Any]], conditions: Sequence[str]) -> list[int]:
    """Indices of the configs that no condition excludes.

    Args:
      values: Configs with dotted keys.
      conditions: Comparisons of keys with numbers, lists and words, joined by `and`, `or`, `not`; a word that is not a
        key is a string. They are parsed, never run as Python.

    Raises:
      ConfigError: A text is not a condition, a condition matches no config, or the conditions exclude all configs.
    """
    kept = list(range(len(values)))
    # A key that only some configs have is valid for all: where it is absent, a comparison with it is false.
    absent = {key: ABSENT for one in values for key in one}
    for text in conditions:
        tree = _parse(text)
        matching = {index for index, one in enumerate(values) if _meets(tree, absent | dict(one), text)}
        if not matching:
            raise _error(text, "no config of this sweep matches it")
        kept = [index for index in kept if index not in matching]
    if not kept and values:
        raise _error(", ".join(conditions), f"it leaves none of {len(values)} configs")
    return kept


def _groups(axes: Mapping[str, Sequence[str]], zipped: Sequence[Any]) -> list[list[str]]:
    """The groups of a zip, each in the order of the axes."""
    nested = [zipped] if zipped and all(isinstance(item, str) for item in zipped) else zipped
    groups = [[str(key) for key in group] if isinstance(group, (list, tuple)) else [str(group)] for group in nested]
    keys = [key for group in groups for key in group]
    for key in keys:
        if key not in axes:
            close = nearest(key, [axis for axis in axes if axis not in keys])
            meant = [[close if one == key and close else one for one in group] for group in groups]
            suggestion = f"grid.zip={literal(meant)}" if close else f"{key}=1,2 grid.zip={literal(groups)}"
            raise ConfigError("grid.zip", groups, f"the sweep is not over {key}", suggestion)
        if keys.count(key) > 1:
            raise ConfigError("grid.zip", groups, f"{key} stands in it twice", EXAMPLE_ZIP)
    for group in groups:
        if len(group) < 2:
            raise ConfigError("grid.zip", groups, "at least two keys go together", EXAMPLE_ZIP)
        if len({len(axes[key]) for key in group}) > 1:
            counts = ", ".join(f"{key} has {len(axes[key])}" for key in group)
            reason = f"its keys have different numbers of values: {counts}"
            raise ConfigError("grid.zip", groups, reason, _as_many(axes, group))
        group.sort(key=list(axes).index)
    return groups


def _as_many(axes: Mapping[str, Sequence[str]], group: Sequence[str]) -> str:
    """What to type so that all keys of `group` have as many values as the shortest."""
    num = min(len(axes[key]) for key in group)
    if num > MAX_SUGGESTED:
        return f"{num} values for each of {', '.join(group)}"
    typed = [[word.partition("=") for word in axes[key][:num]] for key in group]
    return " ".join(f"{words[0][0]}={','.join(value for _, _, value in words)}" for words in typed)


def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _error(text, "it is no condition") from None


def _meets(node: ast.expr, values: Mapping[str, Any], text: str) -> bool:
    if isinstance(node, ast.BoolOp):
        parts = [_meets(part, values, text) for part in node.values]
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _meets(node.operand, values, text)
    if not isinstance(node, ast.Compare):
        raise _error(text, "a comparison of a key is wanted")
    sides = [node.left, *node.comparators]
    names = [name for side in sides if (name := _dotted(side))]
    if not any(name in values for name in names):
        close = nearest(names[0], values) if names else None
        hint = f"; did you mean {close}" if close else ""
        raise _error(text, f"there is no key {names[0]}{hint}" if names else "it names no key")
    found = [_value(side, values, text) for side in sides]
    if any(one is ABSENT for one in found):
        return False
    try:
        pairs = zip(found, node.ops, found[1:], strict=False)
        return all(COMPARISONS[type(kind)](one, other) for one, kind, other in pairs)
    except (TypeError, KeyError):
        raise _error(text, "its sides can't be compared") from None


def _value(node: ast.expr, values: Mapping[str, Any], text: str) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, values, text)
        if isinstance(value, (int, float)):
            return -value
        raise _error(text, "only keys, numbers, lists and words can be compared")
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(part, values, text) for part in node.elts]
    name = _dotted(node)
    if name is None:
        raise _error(text, "only keys, numbers, lists and words can be compared")
    return values.get(name, WORDS.get(name, name))


def _dotted(node: ast.expr) -> str | None:
    """The dotted name, `layer.name`, that an expression spells; None for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := _dotted(node.value)):
        return f"{head}.{node.attr}"
    return None


def _error(text: str, reason: str) -> ConfigError:
    return ConfigError("grid.exclude", text, reason, EXAMPLE_EXCLUDE)
