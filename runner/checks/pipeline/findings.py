"""What a check of several questions found, each sentence with its fix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.bridge.rules.leaves import NamedLeaf
from runner.checks.results import verdicts
from runner.errors import listed
from runner.records.record import Check

# The leaf that each leaf stands in the place of, by the name of the new one.
Replaced = Mapping[str, NamedLeaf]


@dataclass
class Findings:
    """Sentences of a check.

    Attributes:
      wrong: What fails, each with its fix.
      limits: What is warned of.
      untested: What could not be made.
      said: What holds.
      evidence: By name.
    """

    wrong: list[tuple[str, str | None]] = field(default_factory=list)
    limits: list[tuple[str, str | None]] = field(default_factory=list)
    untested: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    evidence: dict[str, Any] = field(default_factory=dict)

    def verdict(self, name: str) -> Check:
        """The check `name`: the fails, else the warnings, else what holds."""
        problems = self.wrong or self.limits
        text = "; ".join([*(text for text, _ in problems), *(self.untested if not self.wrong else [])])
        fixes = list(dict.fromkeys(fix for _, fix in problems if fix))
        fix = "\n".join(fixes) or None
        if self.wrong:
            return verdicts.fail(name, text, fix, **self.evidence, limits=[text for text, _ in self.limits])
        if self.untested:
            return verdicts.untested(name, text, fix)
        if self.limits:
            return verdicts.warn(name, text, fix, **self.evidence)
        return verdicts.passed(name, "; ".join(self.said), **self.evidence)


def names(leaves: Sequence[NamedLeaf]) -> str:
    """Their names in a sentence."""
    return listed([leaf.name for leaf in leaves])


def regex_of(leaves: Sequence[NamedLeaf]) -> str:
    """A regex that meets the leaves in their places, whatever is around the host and in each layer of a stack."""
    ends = list(dict.fromkeys(re.escape(_end(leaf)) for leaf in leaves))
    return f"(.*/)?({'|'.join(ends)})$" if len(ends) > 1 else f"(.*/)?{ends[0]}$"


def _end(leaf: NamedLeaf) -> str:
    """The last names of the leaf's path: its module and the one around it, up to one with a number."""
    parts = [str(part) for part in leaf.path[1:]]
    names = parts[-2:]
    if len(parts) > 2 and not re.search(r"\d", parts[-3]):
        names = parts[-3:]
    return "/".join(names)
