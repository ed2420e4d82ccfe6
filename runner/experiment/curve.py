"""What is seen of a training while it runs: its steps and its loss curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class Watch(Protocol):
    """Who looks on while a run trains."""

    def tell(self, first_step: int, losses: Sequence[float]) -> None:
        """Takes the losses of the steps from `first_step` on."""

    def end(self) -> None:
        """The run trains no more, and is timed next."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What training has told so far.

    Attributes:
      losses: The loss before each step.
      steps_s: Seconds a step.
      resumed_at: Steps at which it went on after an attempt that was stopped.
      remarks: What is to be known of that, one sentence each.
    """

    losses: list[float] = field(default_factory=list)
    steps_s: list[float] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training run after `num` steps: all that it takes to go on. NumPy leaves in nested dicts."""

    num: int
    variables: Any
    state: Any
    curve: Curve


class Steps(Protocol):
    """Where the steps of a run are kept while it trains; see `runner.steps`."""

    def last(self) -> Step | None:
        """The step to go on from."""

    def made(self, num: int, is_last: bool, make: Callable[[], Step]) -> None:
        """Keeps step `num`, if it is its turn.

        Raises:
          Stopped: The run is to end here.
        """


class Stopped(Exception):
    """A training run was asked to end, and has kept its last step."""
