"""Every mistake of a user, and the sentence that fixes it.

One base class, caught once at the edge (`runner.cli`): the sentence is printed, and the process ends with the exit
code of the class. Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

# What a user's mistake begins with on standard error.
USER_ERROR_PREFIX = "error: "


class UserError(Exception):
    """Something the user asked for can't be done; nothing was run.

    Args:
      what: The thing, what was got and what was wanted, as one sentence without the full stop.
      suggestion: What to type instead, if it is known.
    """

    exit_code = 2

    def __init__(self, what: str, suggestion: str | None = None) -> None:
        self.what = what
        self.suggestion = suggestion
        super().__init__(what, suggestion)

    def __str__(self) -> str:
        return f"{self.what}." + (f"\n  Try: {self.suggestion}" if self.suggestion else "")


class ConfigError(UserError):
    """A config value that can't mean anything.

    Args:
      key: The config key as it is typed on the command line, e.g. `timing.rounds`.
      got: The value that was given.
      reason: Why it can't be used.
      suggestion: The override to type instead.
    """

    def __init__(self, key: str, got: object, reason: str, suggestion: str | None = None) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"{key}={literal(got)}: {reason}", suggestion)


class LayerError(UserError):
    """A layer that can't be imported, built, or called on the input."""


class DeviceError(UserError):
    """A device that is not there."""


class StorageError(UserError):
    """A folder or file that can't be read or written."""


class ServerError(UserError):
    """A server that is not there or lets nobody in; what was to be sent is still where it was."""

    exit_code = 1


class ManyErrors(UserError):
    """All the mistakes of one sweep, reported together.

    Args:
      errors: Where each mistake is (the overrides) and what it is.
      num_configs: How many configs the sweep has.
    """

    # A mistake in one axis comes back in every config that has it: each reason is said once, and so many at most.
    MAX_REASONS = 5

    def __init__(self, errors: Sequence[tuple[str, UserError]], num_configs: int) -> None:
        self.reasons: dict[str, list[str]] = {}
        for where, error in errors:
            self.reasons.setdefault(str(error), []).append(where)
        super().__init__(f"{len(errors)} of {num_configs} configs of this sweep are invalid")

    def __str__(self) -> str:
        lines = [f"{self.what}; nothing was run."]
        for reason, places in list(self.reasons.items())[: self.MAX_REASONS]:
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            lines.append(f"{reason}\n  In: {places[0]}{more}")
        if len(self.reasons) > self.MAX_REASONS:
            lines.append(f"and {len(self.reasons) - self.MAX_REASONS} more reasons")
        return "\n".join(lines)


def one_or_many(errors: Sequence[tuple[str, UserError]], num_configs: int) -> UserError:
    """The mistake of a single config as it is, those of a sweep together."""
    return errors[0][1] if num_configs == 1 else ManyErrors(errors, num_configs)


def literal(value: object) -> str:
    """`value` as Hydra's command line spells it: `true`, `null`, `[4,8]`, plain text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(literal(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{literal(item)}" for key, item in value.items()) + "}"
    return str(value)


def quoted(text: str) -> str:
    """`text` as a quoted value of Hydra's grammar."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant, or None if none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def listed(items: Sequence[str], most: int = 3) -> str:
    """The first `most` of `items`, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
