"""What can be observed of a training run in progress: its steps and its loss curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Watch(Protocol):
    """Observes a run while it trains."""

    def tell(self, first_step: int, losses: Sequence[float]) -> None:
        """Receives the losses of the steps from `first_step` on."""

    def end(self) -> None:
        """Training has ended; the run is timed next."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What training has reported so far.

    Attributes:
      losses: The loss before each step.
      steps_s: Seconds per step.
      resumed_at: Steps at which it resumed after an interrupted attempt.
      remarks: Remarks on resuming, one sentence each.
    """

    losses: list[float] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training run after `num` steps: everything needed to resume. NumPy leaves in nested dicts."""

    num: int
    variables: Any
    state: Any
    curve: Curve


class Steps(Protocol):
    """Where the steps of a run are saved while it trains; see `runner.sweep.writing.steps`."""

    def last(self) -> Step | None:
        """The step to resume from."""

    def made(self, num: int, is_last: bool, make: Callable[[], Step]) -> None:
        """Saves step `num` if it is due.

        Raises:
          Stopped: The run must end here.
        """


class Stopped(Exception):
    """A training run was asked to end, and has saved its last step."""
