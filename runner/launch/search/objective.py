"""The aim of a search: what is stored with its study, and what makes it a different one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.config import dotted_keys, serialize
from runner.config.composing.composed import Config
from runner.config.settings.sweep import SearchSettings
from runner.errors import literal
from runner.launch.process import PROCESS_WIDE
from runner.launch.search.sampler import Sampler
from runner.launch.search.space import Axis
from runner.records.metrics import Metric

# What two commands that go on with one study have in common; how much they try, and how they find it, is free.
SAME = ("objective", "direction", "space", "run_id")

# Keys that change no run.
BESIDE = ("tracking.", "checkpoint.", *PROCESS_WIDE)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """The objective, space and sampler of a search.

    Attributes:
      wanted: As it stands in the config.
      objective: The number that is told.
      axes: What the search goes over.
      fixed: The overrides that hold for all trials.
      sampler: How trials are found.
    """

    wanted: SearchSettings
    objective: Metric
    axes: Sequence[Axis]
    fixed: tuple[str, ...]
    sampler: Sampler

    @property
    def data(self) -> dict[str, Any]:
        """What the plan has of it, as JSON data."""
        return {
            "objective": self.wanted.objective,
            "direction": self.wanted.direction.value,
            "n_trials": self.wanted.n_trials,
            "n_jobs": self.wanted.n_jobs,
            "sampler": self.sampler.label,
            "space": {axis.key: axis.typed for axis in self.axes},
        }

    def about(self, config: Config, run_id: str) -> dict[str, Any]:
        """What makes it the same study, as JSON data.

        Args:
          config: The one where every axis has its first value.
          run_id: Its run's, which names all that is fixed.
        """
        values = dotted_keys.flatten(serialize.to_data(config.run))
        return {
            "objective": self.wanted.objective,
            "direction": self.wanted.direction.value,
            "space": {axis.key: axis.data for axis in self.axes},
            "typed": [f"{axis.key}={axis.typed}" for axis in self.axes],
            "fixed": values,
            "run_id": run_id,
        }

    def digest(self, about: Mapping[str, Any]) -> str:
        """Names the study and its sampler."""
        return serialize.canonical_digest([about[key] for key in SAME] + [self.sampler.label])


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """What a study that is there has other than what is typed; None where it is the same.

    Args:
      there: What `Aim.about` gave when it began; nothing of it where that was not kept yet.
      here: What it gives now.
    """
    for key in ("objective", "direction"):
        if there.get(key, here[key]) != here[key]:
            return f"search.{key}={there[key]}"
    if there.get("space", here["space"]) != here["space"]:
        gone = [text for text in there.get("typed", ()) if text not in here["typed"]]
        return ", ".join(gone) or f"it goes over {', '.join(there['space'])} alone"
    if there.get("run_id", here["run_id"]) == here["run_id"]:
        return None
    pairs = {key: value for key, value in there.get("fixed", {}).items() if here["fixed"].get(key) != value}
    changed = [f"{key}={literal(value)}" for key, value in pairs.items() if not key.startswith(BESIDE)]
    return ", ".join(changed) or "the source of its layer, or what it starts from, was another"
