"""Which code a config runs that is neither ours, flax's nor jax's: a record or a plan may be a stranger's."""

from __future__ import annotations

from runner.bridge import targets
from runner.bridge.rules import sources
from runner.config.settings.run import Run


def foreign_code(run: Run) -> list[str]:
    """What `run` imports of others, by dotted path; none of it is imported here."""
    return list(dict.fromkeys([*targets.foreign_paths(run), *sources.named_functions(run.rules)]))
