"""A run with its place in a sweep, how far it has come, and what it leaves in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runner.config.settings import Run
from runner.experiment.curve import Steps
from runner.experiment.identity import Identity
from runner.records.record import ArraySummary, Check, Failure, Record, TrainInfo
from runner.records.timing import GpuInfo, Measurement


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run with its place in a sweep.

    Attributes:
      run: What is run.
      identity: Its names.
      num: Its position.
      sweep: Name of the sweep.
      overrides: What was typed for it.
      compare_eager: Whether the jitted path is compared with the eager one here.
      compared_on: The run of the sweep on which it is; None where on none.
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
    """What a run leaves in memory.

    Attributes:
      record: The record, still without checkpoint and tracker.
      variables: The Linen variables as they are saved (`trees.to_save`); None where init failed.
      output: Arrays of the output by path.
      train_state: The step and the optimiser's state, as they are saved; None where nothing was trained.
    """

    record: Record
    variables: Any
    output: Mapping[str, np.ndarray]
    train_state: Any = None


@dataclass
class Story:
    """How far a run has come; a failure keeps what was reached."""

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
