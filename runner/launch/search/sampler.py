"""Creates the configured sampler for each trial, so that a resumed study draws what an uninterrupted one would."""

from __future__ import annotations

import contextlib
import inspect
import pkgutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.config import serialize
from runner.errors import ConfigError, UserError

# They lay out the points of all trials by their seed.
SEQUENCES = ("QMCSampler",)

KEY = "hydra.sweeper.sampler"
INSTEAD = "hydra/sweeper/sampler=tpe"


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How the next trial is found.

    Attributes:
      target: Dotted path of a sampler of Optuna.
      arguments: Those of its constructor; `seed` makes the whole study repeatable.
    """

    target: str
    arguments: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Its class and arguments."""
        given = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self.target.rpartition('.')[2]}({given})"

    def make(self, number: int, key: str | None = None) -> Any:
        """The sampler of a trial, or of one of its keys where those are drawn one by one.

        It is seeded by these too: a study that goes on must not draw again what it drew before, and asks for what it
        would have asked for had it not been stopped.

        Raises:
          UserError: There is no such sampler, or it can't be made.
        """
        kind = self._kind()
        arguments = dict(self.arguments)
        if arguments.get("seed") is not None and (key is not None or kind.__name__ not in SEQUENCES):
            arguments["seed"] = int(serialize.canonical_digest([arguments["seed"], number, key])[:8], 16)
        with self.blamed():
            return kind(**arguments)

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Says what a sampler refuses as a mistake of the user's, and not what it thinks of itself."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except (TypeError, ValueError, ImportError) as error:
            what = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"{KEY}: {self.label}: {what}", INSTEAD) from error

    def _kind(self) -> type[Any]:
        import optuna

        try:
            kind = pkgutil.resolve_name(self.target)
        except (ImportError, AttributeError, ValueError):
            kind = None
        if not inspect.isclass(kind) or not issubclass(kind, optuna.samplers.BaseSampler):
            known = [name for name in optuna.samplers.__all__ if name.endswith("Sampler") and "Base" not in name]
            raise ConfigError(f"{KEY}._target_", self.target, f"no sampler; Optuna has {', '.join(known)}", INSTEAD)
        return kind
