"""Parses a search space in Hydra's syntax: keys, their ranges, and fixed overrides."""

from __future__ import annotations

import decimal
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from runner.errors import ConfigError, UserError, literal

LOG = "log"

EXAMPLE = "'train.learning_rate=tag(log,interval(1e-4,1))'"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One key that a search varies.

    Attributes:
      key: As it stands in an override, with its `+`.
      typed: Its values as they were typed.
      choices: The values, as they are typed; empty where they are numbers between `low` and `high`.
      low: The least number.
      high: The greatest, itself among them.
      step: Between two numbers; None where all are possible.
      log: Whether to sample on a log scale.
      whole: Whether the numbers are whole.
    """

    key: str
    typed: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    whole: bool = False

    @property
    def first(self) -> Any:
        """The first choice, or the least number."""
        return self.choices[0] if self.choices else self.low

    @property
    def data(self) -> list[Any]:
        """What makes it the same axis, however it was typed."""
        return [self.key, list(self.choices), self.low, self.high, self.step, self.log, self.whole]

    def override(self, value: Any) -> str:
        """The override that stands for one of its values."""
        if self.choices or self.whole or self.step is None:
            return f"{self.key}={literal(value)}"
        # As Hydra counts a range: step after step, with that many decimal digits.
        steps = itertools.repeat(decimal.Decimal(self.step), round((value - self.low) / self.step))
        return f"{self.key}={float(sum(steps, start=decimal.Decimal(self.low)))}"


def parse(arguments: Sequence[str], config_loader: Any) -> tuple[list[Axis], list[str]]:
    """The axes of a search, and the overrides that hold for all of its trials.

    Args:
      arguments: What was typed; of two for one key the later holds.
      config_loader: Hydra's, for this program.

    Raises:
      UserError: Nothing to search over, or an axis that has no values.
      HydraException: Text that is no override.
    """
    overrides = OverridesParser.create(config_loader=config_loader).parse_overrides(list(arguments))
    typed = {override.get_key_element(): override for override in overrides}
    axes = [_axis(key, override) for key, override in typed.items() if override.is_sweep_override()]
    fixed = [one for one in typed.values() if not one.is_sweep_override()]
    if not axes:
        raise UserError("hydra/sweeper=optuna: no key has more than one value, so there is nothing to search", EXAMPLE)
    return axes, [str(override.input_line) for override in fixed]


def _axis(key: str, override: Override) -> Axis:
    typed = override.get_value_string()
    value = override.value()
    if isinstance(value, IntervalSweep):
        return _numbers(key, typed, value.start, value.end, tags=value.tags)
    if isinstance(value, RangeSweep):
        counted = value.range()
        points = [counted[0], counted[-1]] if isinstance(counted, range) and counted else list(counted)
        if points:
            return _numbers(key, typed, min(points), max(points), tags=value.tags, step=abs(value.step))
    choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise ConfigError(key, typed, "the search over it has no values", f"{key}=range(0,3)")
    _require_no_tags(key, typed, getattr(value, "tags", set()))
    return Axis(key=key, typed=typed, choices=choices)


def _numbers(key: str, typed: str, low: Any, high: Any, *, tags: set[str], step: Any = None) -> Axis:
    """An axis of numbers from `low` to `high`; of a type that is not float they are whole."""
    whole = all(isinstance(one, int) for one in (low, high, step or 0))
    log = LOG in tags
    _require_no_tags(key, typed, tags - {LOG})
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(key, typed, "an interval goes from a number to a greater one", f"{key}=interval(0,1)")
    if log and low <= 0:
        raise ConfigError(key, typed, "a logarithm needs numbers above 0", f"'{key}=tag(log,interval(1e-4,1))'")
    if log and step not in (None, 1):
        reason = "a logarithmic axis has no steps"
        raise ConfigError(key, typed, reason, f"'{key}=tag(log,interval({low},{high}))'")
    return Axis(key=key, typed=typed, low=low, high=high, step=None if log else step, log=log, whole=whole)


def _require_no_tags(key: str, typed: str, tags: set[str]) -> None:
    if tags:
        reason = f"the tag {sorted(tags)[0]} says nothing here; of an interval or a range there is log"
        raise ConfigError(key, typed, reason, f"'{key}=tag(log,interval(1e-4,1))'")
