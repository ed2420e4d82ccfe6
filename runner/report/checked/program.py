"""One program that was checked: what it is, where its code is, and what each check found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.records.record import Check, Verdict


@dataclass(frozen=True, kw_only=True)
class CheckedProgram:
    """A program and its checks.

    Attributes:
      label: The layer's name.
      head: The layer, x and the device, in one line.
      typed: The overrides that make it, as typed.
      checks: What each check found, in order.
      error: Why it could not be run, if it could not.
      places: File and line of the layer's class, then of the host's; none where a file is unknown.
    """

    label: str
    head: str
    typed: Sequence[str] = ()
    checks: Sequence[Check] = ()
    error: str | None = None
    places: Sequence[tuple[Path, int]] = field(default_factory=tuple)

    @property
    def name(self) -> str:
        """The layer's name and what was typed, which is unique within a sweep."""
        return " ".join([self.label, *self.typed])

    @property
    def verdict(self) -> Verdict:
        """The worst that was found; a check that could not be made, or an error, is a fail."""
        found = {check.verdict for check in self.checks}
        if self.error is not None or Verdict.fail in found or any(check.untested for check in self.checks):
            return Verdict.fail
        return Verdict.warn if Verdict.warn in found else Verdict.passed

    @property
    def counts(self) -> str:
        """How many checks have each verdict: `1 fail, 2 warn, 11 pass`."""
        found = Counter("untested" if check.untested else check.verdict.value for check in self.checks)
        order = ["fail", "untested", "warn", "pass", "skipped"]
        parts = ["an error"] if self.error is not None else []
        return ", ".join([*parts, *(f"{found[word]} {word}" for word in order if found[word])])
