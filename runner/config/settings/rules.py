"""Settings of a pipeline's rules by path, and how they are typed: `rules=FILE` or `rules=pkg.mod:function()`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runner.config.enums import RuleMatch

# A source with parentheses or a bare path: Hydra would take the one for a function, and the group for the other.
WORD = re.compile(r"(\+{0,2})rules(?:\.(partition|weight_decay|freeze))?=(.*)", re.DOTALL)
CALL = re.compile(r"[\w.]+[:.]\w[\w.]*\(.*\)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class RulesSettings:
    """The rules by which a pipeline finds the variables of a layer; each is a file, a function, or a list.

    Attributes:
      partition: Ordered `regex: partition spec`.
      weight_decay: Ordered `regex: factor`, or a function from params to a tree of booleans; a leaf that meets none
        gets no weight decay.
      freeze: The same for the leaves that the optimiser leaves as they are: `regex: true`, or `regex: null` as in
        big_vision's schedules.
      match: Whether a regex is searched in a path, collection first (EasyLM, MaxText), or has to match all of it,
        without the collection (big_vision); `override` is that too, and a leaf that meets no partition rule keeps
        the axis names that it has (T5X's params_axes_names_override).
    """

    partition: Any = None
    weight_decay: Any = None
    freeze: Any = None
    match: RuleMatch = RuleMatch.search


def as_overrides(words: Iterable[str]) -> list[str]:
    """`words` of a command line, with what follows `rules=` as Hydra takes it.

    `rules=SOURCE` is short for `rules.partition=SOURCE`; a call, `pkg.mod:function()`, gets quotes.
    """
    return [_as_override(word) for word in words]


def _as_override(word: str) -> str:
    match = WORD.fullmatch(word)
    if match is None:
        return word
    plus, key, value = match[1], match[2], match[3]
    if key is None and (value == "null" or value.startswith("{")):
        return word
    if CALL.fullmatch(value):
        escaped = value.replace("'", "\\'")
        value = f"'{escaped}'"
    return f"{plus}rules.{key or 'partition'}={value}"
