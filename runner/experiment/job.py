"""A run with its place in a sweep, its progress, and its result in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runner.config.settings.run import Run
from runner.experiment.identity import Identity
from runner.experiment.train.curve import Steps
from runner.records.record import ArraySummary, Check, Failure, Record, TrainInfo
from runner.records.timing import GpuInfo, Measurement


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run with its place in a sweep.

    Attributes:
      run: The run's settings.
      identity: Its ids.
      num: Its position.
      sweep: Name of the sweep.
      overrides: Its command-line overrides.
      compare_eager: Whether this run compares the jitted path with the eager one.
      compared_on: The run of the sweep that does; None if none does.
    """

    run: Run
    identity: Identity
    num: int = 0
    sweep: str = ""
    overrides: tuple[str, ...] = ()
    compare_eager: bool = True
    compared_on: int | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run, in memory.

    Attributes:
      record: The record, not yet with checkpoint and tracker.
      variables: The Linen variables as saved (`trees.to_save`); None if init failed.
      output: Arrays of the output by path.
      train_state: The step and the optimiser state, as saved; None if nothing was trained.
    """

    record: Record
    variables: Any
    output: Mapping[str, np.ndarray]
    train_state: Any = None


@dataclass
class Story:
    """The progress of a run; a failure keeps what was reached."""

    initial: Any = None
    variables: Any = None
    train_state: Any = None
    train: TrainInfo | None = None
    updated: Any = None
    output: Mapping[str, np.ndarray] = field(default_factory=dict)
    summaries: list[ArraySummary] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    init_first_s: float | None = None
    apply_first_s: float | None = None
    steady: dict[str, Measurement] = field(default_factory=dict)
    load_average: float | None = None
    gpus: list[GpuInfo] = field(default_factory=list)
    failure: Failure | None = None
    steps: Steps | None = None
    # Seconds that other runs trained in this one's time, or that it trained in theirs (then negative).
    of_others_s: float = 0.0
