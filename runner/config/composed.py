"""One composed config of a sweep: the run, what was typed for it, and what is kept out of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from runner.config.env_secrets import Redaction
from runner.config.settings import Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """One composed config.

    Attributes:
      run: What to run.
      overrides: What was typed for it.
      where: What tells it from the other configs of the sweep, for an error.
      hydra_files: Name and text of the files that Hydra leaves beside a job; called when the run is written.
      redaction: What it takes from the environment, to be kept out of files.
    """

    run: Run
    overrides: tuple[str, ...] = ()
    where: str = ""
    hydra_files: Callable[[int], Mapping[str, str]] = lambda num: {}
    redaction: Redaction = field(default_factory=Redaction)
