"""One composed config of a sweep: the run, its overrides, and what to redact from files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from runner.config import env_secrets
from runner.config.env_secrets import Redaction
from runner.config.settings.execution import TrackingSettings
from runner.config.settings.run import Run


@dataclass(frozen=True, kw_only=True)
class Config:
    """One composed config.

    Attributes:
      run: The run's settings.
      overrides: The run's overrides, as typed.
      where: What distinguishes it from the sweep's other configs, for error messages.
      hydra_files: Name and text of the files that Hydra writes for a job; called when the run is written.
      files_of: Returns `hydra_files` for other overrides; None where they can't be composed.
      redaction: Values taken from the environment, to redact from files.
    """

    run: Run
    overrides: tuple[str, ...] = ()
    where: str = ""
    hydra_files: Callable[[int], Mapping[str, str]] = lambda num: {}
    files_of: Callable[[tuple[str, ...]], Callable[[int], Mapping[str, str]]] | None = None
    redaction: Redaction = field(default_factory=Redaction)

    @property
    def tracking(self) -> TrackingSettings:
        """How the run is tracked, with texts that trackers may write; its names have been checked."""
        settings = self.run.tracking
        if not self.redaction.values:
            return settings
        texts = self.redaction.settings(vars(settings), "tracking.")
        return TrackingSettings(**texts | {name: getattr(settings, name) for name in (*env_secrets.TRACKED, "options")})
