"""Tells a study the results of its trials, and logs them to `trials.jsonl` for views."""

from __future__ import annotations

import math
from typing import Any

from runner.launch.search.study import Asked, Study
from runner.records.journal import Journal
from runner.records.metrics import Metric
from runner.records.record import Record, Status
from runner.records.row import Trial
from runner.sweep.reporter import Reporter


class Teller:
    """Tells one study.

    Args:
      study: What is told.
      journal: `trials.jsonl`.
      objective: The number that is told.
      reporter: Receives failed trials that are reported nowhere else.
    """

    def __init__(self, study: Study, journal: Journal, objective: Metric, reporter: Reporter) -> None:
        self._study = study
        self._journal = journal
        self._objective = objective
        self._reporter = reporter

    def value(self, record: Record) -> float | None:
        """What is told of a run; None where it has no number to tell."""
        value = self._objective.of(record) if record.status is Status.done else None
        return None if value is None or math.isnan(value) else value

    def tell(self, trial: Asked, record: Record) -> None:
        """Tells what a run answered."""
        value = self.value(record)
        if record.error is not None:
            self.fail(trial, record, f"{record.error.kind.value}: {record.error.message or record.error.type}")
        elif value is None:
            self.fail(trial, record, f"its record has no number {self._objective.name}")
        else:
            self._study.tell(trial.number, value)
            self.write(trial, value=value, run_id=record.run_id)

    def fail(self, trial: Asked, record: Record | None, error: str) -> None:
        """Ends a trial without a value; of one that can't run there is no record."""
        self._study.fail(trial.number, error)
        self.write(trial, run_id=record.run_id if record else None, error=error)
        if record is None or record.error is None:  # that one was said when it happened
            self._reporter.warned(f"trial {trial.number} failed: {' '.join(trial.overrides)}: {error}")

    def write(self, trial: Asked, **known: Any) -> None:
        """Says for views what was told."""
        told = Trial(number=trial.number, overrides=list(trial.overrides), **known)
        self._journal.append("told", **vars(told))
