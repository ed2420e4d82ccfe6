"""Table rows for runs, and trials of a search."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from runner.records.record import Record, Verdict


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run as one table row: what the journal keeps, so that listing runs needs no records.

    Attributes:
      settings: The full config; stored in the plan, not in the journal, as are the overrides.
      overrides: As typed for this run.
      apply_s: Median of one blocking call of apply; always show `apply_flags` with it.
      failed_checks: Checks that failed.
      loss_first: The loss of a trained run before its first step.
      loss_last: The loss before its last step.
      error: Kind and message of the failure.
      trial: The first trial of a search that the run served; `objective` is the value reported for it.
    """

    num: int
    run_id: str
    status: str
    layer: str
    device: str
    output_norm: float | None = None
    apply_s: float | None = None
    apply_flags: list[str] = field(default_factory=list)
    num_params: int = 0
    checkpoint_bytes: int | None = None
    failed_checks: list[str] = field(default_factory=list)
    loss_first: float | None = None
    loss_last: float | None = None
    error: str | None = None
    trial: int | None = None
    objective: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The run's display name: its folder's name."""
        return f"{self.num}-{self.run_id[:8]}"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial that a search suggested, and its outcome.

    Attributes:
      number: From 0.
      overrides: The suggested values, one override for each key in the search space.
      value: Value of the objective; None if the trial failed.
      run_id: The run that served it, perhaps one reused from an earlier trial; None if its config could not run.
      error: Why it failed.
    """

    number: int
    overrides: list[str]
    value: float | None = None
    run_id: str | None = None
    error: str | None = None


def best_trial(trials: Iterable[Trial], *, greatest: bool) -> Trial | None:
    """The trial with the lowest or highest value; the first of a tie; None if none has a value."""
    valued = [(trial.value, trial) for trial in trials if trial.value is not None]
    if not valued:
        return None
    return (max if greatest else min)(valued, key=lambda pair: pair[0])[1]


def failure(record: Record) -> str | None:
    """Kind and message of what a run failed of."""
    error = record.error
    return f"{error.kind.value}: {error.message or error.type}" if error else None


def row_of(record: Record) -> Row:
    """`record` as one row."""
    latency = record.timing.apply_latency if record.timing else None
    return Row(
        num=record.num,
        run_id=record.run_id,
        status=record.status.value,
        layer=record.layer,
        device=record.device,
        output_norm=record.output_norm,
        apply_s=latency.summary.median_s if latency else None,
        apply_flags=latency.summary.flags if latency else [],
        num_params=record.num_params,
        checkpoint_bytes=record.saved.num_bytes if record.saved else None,
        failed_checks=[check.name for check in record.checks if check.verdict is Verdict.fail],
        loss_first=record.train.losses[0] if record.train else None,
        loss_last=record.train.losses[-1] if record.train else None,
        error=failure(record),
        settings=record.settings,
        overrides=record.overrides,
    )
