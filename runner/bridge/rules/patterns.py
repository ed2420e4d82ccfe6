"""Ordered rules, `regex: value`, of which a path meets the first that fits: EasyLM's and big_vision's contracts."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from jax.sharding import NamedSharding, PartitionSpec

# A path of no module: what meets it meets everything.
ANYWHERE = ("\0/\0", "params/\0/\0")

SPEC = re.compile(r"(?:[\w.]*\.)?(?:P|PS|PartitionSpec)\((.*)\)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule.

    Attributes:
      pattern: The regex.
      value: A `PartitionSpec`, text of a tactic that is none, or whether a mask takes the leaf.
    """

    pattern: str
    value: Any


@dataclass(frozen=True, kw_only=True)
class RuleList:
    """Ordered rules.

    Attributes:
      rules: In order.
      fullmatch: Whether a regex has to match all of a path, and not only a part of it.
      overrides: Whether a path that meets none keeps what it has, and a spec has a name for every axis.
    """

    rules: tuple[Rule, ...]
    fullmatch: bool = False
    overrides: bool = False

    def first(self, text: str) -> int | None:
        """The first rule that a path meets."""
        found = (num for num, rule in enumerate(self.rules) if self._fits(rule, text))
        return next(found, None)

    def is_catch_all(self, num: int) -> bool:
        """Whether every path meets the rule."""
        return any(self._fits(self.rules[num], text) for text in ANYWHERE)

    def names_numbers(self, num: int) -> bool:
        """Whether the rule was written for names that are numbers: `layers/0`, `layers/[0-9]+`."""
        return re.search(r"\\d|[0-9]", self.rules[num].pattern) is not None

    def said(self, num: int) -> str:
        """The rule as it is written."""
        return f"{self.rules[num].pattern!r}: {spelled(self.rules[num].value)}"

    def _fits(self, rule: Rule, text: str) -> bool:
        return (re.fullmatch if self.fullmatch else re.search)(rule.pattern, text) is not None


def spelled(value: Any) -> str:
    """A rule's value in a sentence: `P('fsdp', None)`."""
    if isinstance(value, PartitionSpec):
        return f"P({', '.join(repr(axis) for axis in value)})"
    return str(value)


def num_axes(value: Any) -> int | None:
    """How many axes a leaf needs for the spec `value`; None for a tactic."""
    return len(value) if isinstance(value, PartitionSpec) else None


def pairs_of(found: Any) -> list[tuple[str, Any]]:
    """Regexes with their values, of a mapping or a sequence of pairs, of one-entry mappings, or of regexes alone.

    Raises:
      ValueError: It is none of these; the message says what it is.
    """
    if isinstance(found, Mapping):
        return [(_pattern(key), value) for key, value in found.items()]
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise ValueError(f"a sequence of (regex, value) is wanted, and not a {type(found).__name__}")
    pairs: list[tuple[str, Any]] = []
    for item in found:
        if isinstance(item, str):
            pairs.append((_pattern(item), True))
        elif isinstance(item, Mapping) and len(item) == 1:
            pairs += pairs_of(item)
        elif isinstance(item, Sequence) and len(item) == 2:
            pairs.append((_pattern(item[0]), item[1]))
        else:
            raise ValueError(f"pairs of a regex and a value are wanted, and not {item!r}")
    return pairs


def _pattern(key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"{key!r} is no regex")
    try:
        re.compile(key)
    except re.error as error:
        raise ValueError(f"{key!r} is no regex: {error}") from None
    return key


def partition_value(value: Any) -> Any:
    """A `PartitionSpec`, from one, a list, the text `P('fsdp', None)`, or None; text of a tactic as it is.

    Raises:
      ValueError: It is none of these.
    """
    if isinstance(value, NamedSharding):
        return value.spec
    if isinstance(value, PartitionSpec):
        return value
    if value is None or value is True:  # a regex alone
        return PartitionSpec()
    if isinstance(value, str):
        return _of_text(value.strip())
    if isinstance(value, Sequence):
        return PartitionSpec(*(tuple(axis) if isinstance(axis, list) else axis for axis in value))
    raise ValueError(f"{value!r} is no partition spec")


def _of_text(text: str) -> Any:
    if match := SPEC.fullmatch(text):
        inside = match[1].strip().rstrip(",")
        try:
            return PartitionSpec(*ast.literal_eval(f"({inside},)")) if inside else PartitionSpec()
        except (ValueError, SyntaxError):
            axes = [part.strip() for part in inside.split(",")]
            return PartitionSpec(*(None if axis in ("None", "null") else axis for axis in axes))
    if text[:1] in "[(" and text[-1:] in "])":
        return partition_value([None if axis == "None" else axis for axis in yaml.safe_load(f"[{text[1:-1]}]")])
    if text in ("", "null", "None"):
        return PartitionSpec()
    return text if re.search(r"[(|]", text) else PartitionSpec(text)


def decay_value(value: Any) -> bool:
    """Whether a factor of weight decay decays."""
    value = yaml.safe_load(value) if isinstance(value, str) else value
    return bool(value)


def freeze_value(value: Any) -> bool:
    """Whether a leaf is frozen: `true`, or no schedule, as in big_vision; a schedule, a dict, trains it."""
    value = yaml.safe_load(value) if isinstance(value, str) else value
    return value is None or (not isinstance(value, Mapping) and bool(value))
